"""What signatures and abbreviations name in a store."""

from __future__ import annotations

from collections.abc import Iterable

from cas.artifact import Artifact, Record
from cas.index import Reader
from cas.quoting import quoted
from cas.signature import NoSuchSignature, pick


def resolve(reader: Reader, names: Iterable[str], store: bytes) -> list[Artifact]:
    """Return the artifacts that signatures or abbreviations name, in their order.

    `store` is the store's path, for messages. Raises NoSuchSignature, which names all that are
    missing, AmbiguousSignature, StoreDamaged.
    """
    return [record.artifact() for record in resolve_records(reader, names, store)]


def resolve_records(reader: Reader, names: Iterable[str], store: bytes) -> list[Record]:
    """Return the records of the artifacts that `resolve` would, and raise what it does."""
    found = [(name, reader.record(name) or _abbreviated(reader, name)) for name in names]
    missing = [name for name, record in found if record is None]
    if missing:
        raise NoSuchSignature(missing, quoted(store))
    return [record for _, record in found if record is not None]


def _abbreviated(reader: Reader, text: str) -> Record | None:
    found = pick(text, reader.like(text))
    return None if found is None else reader.record(str(found))
