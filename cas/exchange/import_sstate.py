"""Importing sstate objects, by all processors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from cas.errors import InputRefused
from cas.exchange.sstate import SstateMapping, signature_of
from cas.model.artifact import Artifact
from cas.model.signature import Signature
from cas.put.put import SignatureConflict
from cas.store import Store
from cas.system.progress import Progress, result_or_bytes
from cas.system.workers import run_parallel

_COST_OF_AN_OBJECT = 100_000
"""How many compressed bytes are unpacked in the time that an object takes besides."""
_TOLD_AT_ONCE = 1_000_000  # bytes
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


def import_sstate(
    store: Store,
    paths: Iterable[bytes],
    take: Callable[[Imported], None],
    stored: Callable[[int], None],
) -> None:
    """Store the trees of sstate objects, straight from the archives; `take` gets what was done.

    `stored` gets how many more bytes of contents were read, now and then.

    One that is refused does not keep others from being stored; of several with one signature the
    first one counts. Raises NoZstd, CasError, OSError.
    """
    groups: dict[Signature, list[bytes]] = {}
    for path in dict.fromkeys(paths):
        try:
            groups.setdefault(signature_of(path), []).append(path)
        except InputRefused as error:
            take(Imported(path, None, None, refused=error))
    weights = {s: sum(map(_size, of_one)) + _COST_OF_AN_OBJECT for s, of_one in groups.items()}
    work = partial(_import_part, store, os.getpid(), groups)
    on_output = result_or_bytes(take, stored)
    run_parallel(work, groups, on_output, weight=weights.__getitem__, min_weight=_LITTLE)


def _import_part(
    store: Store,
    owner: int,
    groups: Mapping[Signature, Sequence[bytes]],
    signatures: Sequence[Signature],
    give: Callable[[Imported | int], None],
) -> None:
    if os.getpid() != owner:
        store.close()  # a process that was forked opens its own
        store = Store(store.path)
    for signature in signatures:
        for path in groups[signature]:
            give(_import(store, signature, path, give))


class _BytesRead(Progress):
    """Emits how many more bytes a put has read, in steps that are worth a message."""

    def __init__(self, emit: Callable[[int], None]) -> None:
        self._emit = emit
        self._emitted = 0

    def update(self, done: int, total: int = 0, size: int = 0) -> None:
        """Emit the bytes since the last message, if they are many."""
        if size - self._emitted >= _TOLD_AT_ONCE:
            self._emit(size - self._emitted)
            self._emitted = size


def _import(
    store: Store, signature: Signature, path: bytes, give: Callable[[int], None]
) -> Imported:
    try:
        if (known := store.find(signature)) is not None:
            return Imported(path, signature, known, known=True)
        place = SstateMapping(signature.recipe).place
        done = store.put(signature, path, place=place, progress=_BytesRead(give))
    except SignatureConflict:  # another process has just stored it
        return Imported(path, signature, store.find(signature), known=True)
    except InputRefused as error:
        return Imported(path, signature, None, refused=error)
    return Imported(path, signature, done.artifact, done.new_bytes, known=done.unchanged)


def _size(path: bytes) -> int:
    """Return the size of a file; what cannot be looked at cannot be read either."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_size
    return 0
