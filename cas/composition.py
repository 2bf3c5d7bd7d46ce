"""Compositions of stored artifacts, held against removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cas.artifact import Artifact
from cas.closing import Closing
from cas.compose import distinct
from cas.conflicts import Conflict, find_overlaps
from cas.known import Known
from cas.layers import Layers
from cas.leases import Lease
from cas.manifest import Digest
from cas.signature import Signature


@dataclass(frozen=True, slots=True)
class Composition(Closing):
    """Artifacts to be seen as one tree, lowest first: a later one wins over an earlier one.

    Owns a lease: nothing of it is collected until it is closed. `store` is the store's path,
    `ids` are the signatures, with the priorities that were asked for (`ID@N`), `layers` the trees
    to mount, lowest first, and `conflicts` those that somebody should be told of.
    """

    store: bytes
    ids: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    layers: tuple[Digest, ...]
    conflicts: tuple[Conflict, ...]
    lease: Lease

    @property
    def named(self) -> tuple[tuple[str, Digest], ...]:
        """Each ID with its tree, lowest first."""
        trees = (artifact.tree for artifact in self.artifacts)
        return tuple(zip(self.ids, trees, strict=True))

    def close(self) -> None:
        """End the lease."""
        self.lease.close()


def find_conflicts(artifacts: Sequence[Artifact], layers: Layers, known: Known) -> list[Conflict]:
    """Find the conflicts of artifacts, lowest first. Raises BadManifest, OSError."""
    trees = distinct(artifact.tree for artifact in artifacts)
    overlaps = known.overlaps(trees) if len(trees) > 1 else []
    if overlaps is None:
        overlaps = find_overlaps([layers.manifest(tree, to_compare=True) for tree in trees])
        known.keep_overlaps(trees, overlaps)
    by_tree: dict[Digest, Signature] = {a.tree: a.signature for a in artifacts}
    names = [by_tree[tree] for tree in trees]
    return [
        Conflict(o.path, names[o.winner], tuple(names[n] for n in o.hidden), o.directory)
        for o in overlaps
    ]
