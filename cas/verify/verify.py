"""Verification of a store.

A quick verification checks names, sizes, modes, times and links; a full one also reads and hashes
every content once. Neither changes anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from cas.content.findings import FaultKind, Finding
from cas.disk import mount_records
from cas.disk.leases import Lease, NoLease, held_leases
from cas.disk.pins import Pins
from cas.disk.reserve import reserve_released
from cas.errors import StoreDamaged
from cas.index.database import Reader
from cas.index.parts import StoreParts
from cas.index.resolve import resolve
from cas.model.artifact import Artifact
from cas.system.progress import Progress
from cas.verify.whole_store import Verification


def verify(
    storage: StoreParts,
    names: Iterable[str],
    *,
    quick: bool,
    progress: Progress,
) -> Iterator[Finding]:
    """Yield the findings; see `Store.verify`."""
    names = list(names)
    damaged: list[Finding] = []
    with storage.index.read() as reader:
        artifacts = resolve(reader, names, storage.path) if names else _all(reader, damaged)
        remembered = () if names else storage.compositions.iter_merged()
        merged = [m.tree for m in remembered if storage.layers.exists(m.tree)]
        trees = {*merged, *(artifact.tree for artifact in artifacts)}
        lease = _lease(storage, trees)
    with lease:
        yield from damaged
        if not names:
            yield from _state(storage.path)
        unread = {name for found in damaged for name in found.signatures}
        verification = Verification(storage, artifacts, merged, unread, whole=not names)
        yield from verification.run(quick=quick, progress=progress)


def _lease(storage: StoreParts, trees: Iterable[str]) -> contextlib.AbstractContextManager[object]:
    try:
        with reserve_released(storage.fd):
            return Lease(storage.path, trees, purpose="verify")
    except NoLease:
        return contextlib.nullcontext()  # a read-only user verifies without a lease


def _all(reader: Reader, damaged: list[Finding]) -> list[Artifact]:
    """Return all artifacts; append the faults of the index to `damaged`."""
    artifacts = []
    for record in reader.records():
        try:
            artifacts.append(record.artifact())
        except StoreDamaged as error:
            fault = f"has a corrupt record: {error.message}"
            damaged.append(Finding(FaultKind.INDEX, b"index/data.mdb", fault, (record.name,)))
    if not reader.is_consistent(artifacts):
        fault = "finds other artifacts by hash or tree than it has"
        damaged.append(Finding(FaultKind.INDEX, b"index/data.mdb", fault))
    return artifacts


def _state(store: bytes) -> Iterator[Finding]:
    """Read the pins, mount records and leases."""
    for name, read in (
        (b"pins", Pins(store).all),
        (b"mounts", lambda: list(mount_records.mount_uses(store))),
        (b"leases", lambda: list(held_leases(store))),
    ):
        try:
            read()
        except StoreDamaged as error:
            yield Finding(FaultKind.STATE, name, f"are damaged: {error.message}")
