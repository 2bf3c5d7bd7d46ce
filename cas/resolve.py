"""What signatures and abbreviations name in a store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from cas.artifact import Artifact
from cas.index import Reader
from cas.quoting import quoted
from cas.signature import BadSignature, NoSuchSignature, Signature, pick


def resolve(reader: Reader, names: Iterable[str], store: bytes) -> list[Artifact]:
    """Return the artifacts that signatures or abbreviations name, in their order.

    `store` is the store's path, for messages. Raises NoSuchSignature, which names all that are
    missing, AmbiguousSignature, StoreDamaged.
    """
    found = [(name, _lookup(reader, name)) for name in names]
    missing = [name for name, artifact in found if artifact is None]
    if missing:
        raise NoSuchSignature(missing, quoted(store))
    return [artifact for _, artifact in found if artifact is not None]


def _lookup(reader: Reader, text: str) -> Artifact | None:
    """Return what a signature or abbreviation names. Raises AmbiguousSignature."""
    with contextlib.suppress(BadSignature):
        exact = reader.get(Signature.parse(text))
        if exact is not None:
            return exact
    found = pick(text, reader.like(text))
    return None if found is None else reader.get(found)
