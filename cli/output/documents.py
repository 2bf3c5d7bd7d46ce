"""Artifacts, pins and conflicts as JSON values."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cas.disk.pins import Pin
from cas.model.artifact import Artifact
from cas.model.conflicts import Conflict


def artifact_document(artifact: Artifact) -> dict[str, object]:
    """Return an artifact as a JSON value."""
    signature = artifact.signature
    dropped = artifact.dropped
    return {
        "id": str(signature),
        "recipe": signature.recipe,
        "arch": signature.arch,
        "task": signature.task,
        "hash": signature.hash,
        "tree": artifact.tree,
        "files": artifact.files,
        "directories": artifact.directories,
        "symlinks": artifact.symlinks,
        "bytes": artifact.size,
        "stored_ns": artifact.created_ns,
        "dropped": {
            "set_id_bits": dropped.set_id_bits,
            "xattrs": dropped.xattrs,
            "owners": dropped.owners,
        },
    }


def pin_document(pin: Pin) -> dict[str, object]:
    """Return a pin as a JSON value."""
    return {
        "id": str(pin.signature),
        "reason": pin.reason,
        "since_ns": pin.since_ns,
        "uid": pin.uid,
    }


def conflict_documents(conflicts: Sequence[Conflict]) -> list[dict[str, object]]:
    """Return conflicts as JSON values."""
    return [
        {
            "path": os.fsdecode(conflict.path),
            "winner": str(conflict.winner),
            "hidden": [str(signature) for signature in conflict.hidden],
            "hides_directory": conflict.directory,
        }
        for conflict in conflicts
    ]
