"""Importing sstate objects, by all processors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from cas.artifact import Artifact
from cas.errors import InputRefused
from cas.signature import Signature
from cas.sstate import Layout, signature_of
from cas.store import Store
from cas.workers import spread

_COST_OF_AN_OBJECT = 100_000
"""How many compressed bytes are unpacked in the time that an object takes besides."""
_LITTLE = 2_000_000
"""How many compressed bytes are unpacked in the time that is worth a process."""


class Imported(NamedTuple):
    """What became of the sstate object at `path`.

    `artifact` is None if it was `refused`; `new_bytes` of content were new to the store. `known`
    is one whose signature was stored already: it was not read.
    """

    path: bytes
    signature: Signature | None
    artifact: Artifact | None
    new_bytes: int = 0
    known: bool = False
    refused: InputRefused | None = None


def import_sstate(store: Store, paths: Iterable[bytes], take: Callable[[Imported], None]) -> None:
    """Store the trees of sstate objects, straight from the archives; `take` gets what was done.

    One that is refused does not keep others from being stored. Raises NoZstd, CasError, OSError.
    """
    weights = {path: _size(path) + _COST_OF_AN_OBJECT for path in dict.fromkeys(paths)}
    work = partial(_import_part, store, os.getpid())
    spread(work, weights, take, weight=weights.__getitem__, least=_LITTLE)


def _import_part(
    store: Store, owner: int, paths: Sequence[bytes], give: Callable[[Imported], None]
) -> None:
    if os.getpid() != owner:
        store.close()  # a process that was forked opens its own
        store = Store(store.path)
    for path in paths:
        give(_import(store, path))


def _import(store: Store, path: bytes) -> Imported:
    signature = None
    try:
        signature = signature_of(path)
        if (known := store.find(signature)) is not None:
            return Imported(path, signature, known, known=True)
        layout = Layout(signature.recipe)
        done = store.put(signature, path, place=layout.place)
    except InputRefused as error:
        return Imported(path, signature, None, refused=error)
    return Imported(path, signature, done.artifact, done.new_bytes)


def _size(path: bytes) -> int:
    """Return the size of a file; what cannot be looked at cannot be read either."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_size
    return 0
