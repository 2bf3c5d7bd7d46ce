"""Text and JSON of the entries of trees."""

from __future__ import annotations

import os

from cas.model.manifest import Entry, Kind
from cli.output.printing import text_of


def entry_document(entry: Entry) -> dict[str, object]:
    """Return an entry as JSON values."""
    document: dict[str, object] = {"path": os.fsdecode(entry.path), "kind": entry.kind.value}
    if entry.kind is Kind.FILE:
        document |= {
            "executable": entry.executable,
            "size": entry.size,
            "digest": entry.digest,
        }
    elif entry.target is not None:
        document["target"] = os.fsdecode(entry.target)
    return document


def entry_line(entry: Entry) -> str:
    """Return an entry as a line: kind, executable bit, size, digest, path, target."""
    path = text_of(entry.path)
    if entry.kind is Kind.DIRECTORY:
        return f"d - {'-':>12} {'-':64} {path}"
    if entry.target is not None:
        return f"l - {'-':>12} {'-':64} {path} -> {text_of(entry.target)}"
    return f"f {'x' if entry.executable else '-'} {entry.size:>12} {entry.digest} {path}"
