"""Compositions of stored artifacts, held against removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cas.artifact import Artifact, Record, recorded_signature
from cas.closing import Closing
from cas.compose import distinct
from cas.conflicts import Conflict, find_overlaps
from cas.known import Known
from cas.layers import Layers
from cas.leases import Lease
from cas.manifest import Digest


@dataclass(frozen=True, slots=True)
class Composition(Closing):
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
    records: tuple[Record, ...]

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


def find_conflicts(
    names: Sequence[str], trees: Sequence[Digest], key: Digest, layers: Layers, known: Known
) -> list[Conflict]:
    """Find the conflicts of artifacts, given by signatures and trees, lowest first.

    `key` is that of `composition_key`. Raises BadManifest, OSError.
    """
    by_tree = dict(zip(trees, names, strict=True))
    different = distinct(trees)
    overlaps = known.overlaps(key, len(different)) if len(different) > 1 else []
    if overlaps is None:
        manifests = [layers.manifest(tree, to_compare=True) for tree in different]
        overlaps = find_overlaps(manifests)
        known.keep_overlaps(key, different, overlaps)
    if not overlaps:
        return []
    found = [recorded_signature(by_tree[tree]) for tree in different]
    return [
        Conflict(o.path, found[o.winner], tuple(found[n] for n in o.hidden), o.directory)
        for o in overlaps
    ]
