"""Compositions of stored artifacts, held against removal."""

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

    Owns a lease: nothing of it is collected until it is closed. `store` is the store's path,
    `ids` are the signatures, with the priorities that were asked for (`ID@N`), `trees` those of
    the artifacts, `layers` the trees to mount, lowest first, and `conflicts` those that somebody
    should be told of. `records` are what the index has of the artifacts.
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
        """The artifacts, lowest first; worked out each time."""
        return tuple(record.artifact() for record in self.records)

    @property
    def entries(self) -> int:
        """How many entries the artifacts have, those that hide each other included."""
        return sum(record.entries for record in self.records)

    def close(self) -> None:
        """End the lease."""
        self.lease.close()
