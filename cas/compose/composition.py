"""Compositions of stored artifacts, protected from removal by a lease."""

from __future__ import annotations

from dataclasses import dataclass

from cas.disk.leases import Lease
from cas.model.artifact import Artifact, IndexRecord
from cas.model.conflicts import Conflict
from cas.model.manifest import Digest
from cas.system.closeable import Closeable


@dataclass(frozen=True, slots=True)
class Composition(Closeable):
    """Artifacts to be seen as one tree, lowest first: a later one wins over an earlier one.

    It owns a lease, which keeps its artifacts from gc until it is closed. `store` is the path of
    the store. `ids` are the IDs with their priorities (`ID@N`), `trees` the trees of the artifacts,
    and `layers` the trees to mount, all lowest first. `conflicts` are those to report. `records`
    are the index records of the artifacts.
    """

    store: bytes
    ids: tuple[str, ...]
    trees: tuple[Digest, ...]
    layers: tuple[Digest, ...]
    conflicts: tuple[Conflict, ...]
    lease: Lease
    records: tuple[IndexRecord, ...]

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The artifacts, lowest first; decoded at each access."""
        return tuple(record.artifact() for record in self.records)

    @property
    def entries(self) -> int:
        """The number of entries of all artifacts, including hidden ones."""
        return sum(record.entries for record in self.records)

    def close(self) -> None:
        """End the lease."""
        self.lease.close()
