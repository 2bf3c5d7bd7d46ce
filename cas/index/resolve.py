"""Resolves IDs and abbreviations to artifacts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from cas.index.database import Reader
from cas.model.artifact import Artifact, IndexRecord
from cas.model.signature import NoSuchSignature, best_match
from cas.system.text import quoted, suggestion


def resolve(reader: Reader, names: Iterable[str], store: bytes) -> list[Artifact]:
    """Return the artifacts that IDs or abbreviations match, in their order.

    `store` is the path of the store, for messages. Raises NoSuchSignature with all missing names,
    AmbiguousSignature, StoreDamaged.
    """
    return [record.artifact() for record in resolve_records(reader, names, store)]


def resolve_records(reader: Reader, names: Iterable[str], store: bytes) -> list[IndexRecord]:
    """Return the records of the artifacts of `resolve`, with the same exceptions."""
    records = [(name, reader.record(name) or _abbreviated(reader, name)) for name in names]
    missing = [name for name, record in records if record is None]
    if missing:
        raise NoSuchSignature(missing, quoted(store), _hint(missing[0], store))
    return [record for _, record in records if record is not None]


def _hint(name: str, store: bytes) -> str:
    """Return advice on finding the right name."""
    recipe = name.partition(":")[0]
    with contextlib.suppress(OSError):
        recipes = list(map(os.fsdecode, os.listdir(os.path.join(store, b"artifacts"))))
        if recipe in recipes:
            return f"list its IDs with `cas ls {recipe}`"
        if near := suggestion(recipe, recipes):
            return f"{near} List the stored IDs with `cas ls`"
    return "list the stored IDs with `cas ls`"


def _abbreviated(reader: Reader, text: str) -> IndexRecord | None:
    signature = best_match(text, reader.like(text))
    return None if signature is None else reader.record(str(signature))
