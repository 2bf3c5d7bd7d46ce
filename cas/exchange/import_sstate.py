"""Imports sstate objects on all processors."""

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

_OBJECT_OVERHEAD_BYTES = 100_000
"""An object takes as long as reading so many compressed bytes, in addition to its own."""
_PROGRESS_BYTES = 1_000_000
"""A worker reports its progress after so many bytes."""
_MIN_BYTES_PER_WORKER = 2_000_000
"""A worker is worth its start if it reads so many compressed bytes."""


class Imported(NamedTuple):
    """The result for the sstate object at `path`.

    `artifact` is None if the object was `refused`. `new_bytes` of contents were not stored before.
    `known` means that its ID was stored already, so the object was not read.
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
    on_result: Callable[[Imported], None],
    on_bytes: Callable[[int], None],
) -> None:
    """Store the trees of sstate objects directly from the archives.

    `on_result` is called with the result of each object, and `on_bytes` with numbers of further
    bytes read. A refused object does not stop the others. Of several objects with one ID the first
    one is stored. Raises NoZstd, CasError, OSError.
    """
    groups: dict[Signature, list[bytes]] = {}
    for path in dict.fromkeys(paths):
        try:
            groups.setdefault(signature_of(path), []).append(path)
        except InputRefused as error:
            on_result(Imported(path, None, None, refused=error))
    weights = {s: sum(map(_size, group)) + _OBJECT_OVERHEAD_BYTES for s, group in groups.items()}
    work = partial(_import_part, store, os.getpid(), groups)
    on_output = result_or_bytes(on_result, on_bytes)
    run_parallel(
        work, groups, on_output, weight=weights.__getitem__, min_weight=_MIN_BYTES_PER_WORKER
    )


def _import_part(
    store: Store,
    owner: int,
    groups: Mapping[Signature, Sequence[bytes]],
    signatures: Sequence[Signature],
    emit: Callable[[Imported | int], None],
) -> None:
    if os.getpid() != owner:
        store.close()  # a forked process must open its own Store
        store = Store(store.path)
    for signature in signatures:
        for path in groups[signature]:
            emit(_import(store, signature, path, emit))


class _BytesRead(Progress):
    """Emits how many more bytes a put has read, in steps that are worth a message."""

    def __init__(self, emit: Callable[[int], None]) -> None:
        self._emit = emit
        self._emitted = 0

    def update(self, done: int, total: int = 0, size: int = 0) -> None:
        """Emit the bytes since the last message, if they are many."""
        if size - self._emitted >= _PROGRESS_BYTES:
            self._emit(size - self._emitted)
            self._emitted = size


def _import(
    store: Store, signature: Signature, path: bytes, emit: Callable[[int], None]
) -> Imported:
    try:
        if (known := store.find(signature)) is not None:
            return Imported(path, signature, known, known=True)
        place = SstateMapping(signature.recipe).place
        done = store.put(signature, path, place=place, progress=_BytesRead(emit))
    except SignatureConflict:  # another process has just stored it
        return Imported(path, signature, store.find(signature), known=True)
    except InputRefused as error:
        return Imported(path, signature, None, refused=error)
    return Imported(path, signature, done.artifact, done.new_bytes, known=done.unchanged)


def _size(path: bytes) -> int:
    """Return the size of a file (bytes), or 0 if it is inaccessible."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_size
    return 0
