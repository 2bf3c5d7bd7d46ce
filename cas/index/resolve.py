"""What signatures and abbreviations name in a store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from cas.index.database import Reader
from cas.model.artifact import Artifact, IndexRecord
from cas.model.signature import NoSuchSignature, pick
from cas.system.text import quoted, suggestion


def resolve(reader: Reader, names: Iterable[str], store: bytes) -> list[Artifact]:
    """Return the artifacts that signatures or abbreviations name, in their order.

    `store` is the store's path, for messages. Raises NoSuchSignature, which names all that are
    missing, AmbiguousSignature, StoreDamaged.
    """
    return [record.artifact() for record in resolve_records(reader, names, store)]


def resolve_records(reader: Reader, names: Iterable[str], store: bytes) -> list[IndexRecord]:
    """Return the records of the artifacts that `resolve` would, and raise what it does."""
    found = [(name, reader.record(name) or _abbreviated(reader, name)) for name in names]
    missing = [name for name, record in found if record is None]
    if missing:
        raise NoSuchSignature(missing, quoted(store), _hint(missing[0], store))
    return [record for _, record in found if record is not None]


def _hint(name: str, store: bytes) -> str:
    """Say how to find out what is there instead of a name."""
    recipe = name.partition(":")[0]
    with contextlib.suppress(OSError):
        recipes = list(map(os.fsdecode, os.listdir(os.path.join(store, b"artifacts"))))
        if recipe in recipes:
            return f"`cas ls {recipe}` shows what is there of it"
        if near := suggestion(recipe, recipes):
            return f"{near} `cas ls` shows what is there"
    return "`cas ls` shows what is there"


def _abbreviated(reader: Reader, text: str) -> IndexRecord | None:
    found = pick(text, reader.like(text))
    return None if found is None else reader.record(str(found))
