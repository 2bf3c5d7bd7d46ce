"""Collection: artifacts that no policy keeps go, and then all space that nothing reaches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from cas.disk.log import EventKind, delete_old_logs
from cas.disk.pins import Pins
from cas.disk.reserve import reserve_released
from cas.gc.policy import Candidate, Policy, select_candidates
from cas.gc.removal import Removal, Removed
from cas.gc.sweep import Sweep
from cas.index import artifact_links
from cas.index.database import IndexUnavailable, Writer
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.system.progress import Progress
from cas.usage.space import FreedBytes, space

_BATCH = 500
"""How many artifacts go under one lock, which others wait for."""


class Doomed(NamedTuple):
    """An artifact that would go, with what comes back then, in bytes of disk."""

    artifact: Artifact
    last_used_ns: int
    reason: str
    frees: int


class GcPlan(NamedTuple):
    """What a collection would remove, in that order. `kept` is how many artifacts stay.

    What was found out about compositions goes too if it was last used before `before_ns`. `unused`
    bytes of disk come back whatever goes. `size` is what the store takes now, without these; None
    if the policy does not ask for it.
    """

    doomed: tuple[Doomed, ...]
    before_ns: int
    kept: int
    unused: int
    size: int | None

    @property
    def frees(self) -> int:
        """The bytes of disk that come back."""
        return self.unused + sum(one.frees for one in self.doomed)

    @property
    def left(self) -> int | None:
        """The bytes of disk that the store takes then, if the policy asks for its size."""
        return None if self.size is None else self.size + self.unused - self.frees


class Collected(NamedTuple):
    """What a collection did: `artifacts` are gone, `freed` bytes of disk came back in all."""

    artifacts: tuple[Artifact, ...]
    freed: int


class _PlanProgress(Progress):
    """Reports the bytes that one batch frees as a part of the bytes that the whole plan frees."""

    def __init__(self, progress: Progress, planned: int, freed: int) -> None:
        self._progress, self._planned, self._freed = progress, planned, freed

    def update(self, done: int, total: int = 0, size: int = 0) -> None:
        """Report the bytes freed by all batches so far."""
        freed = self._freed + size
        self._progress.update(min(freed, self._planned), self._planned, freed)


class Collector:
    """Collects in the store whose open parts it borrows."""

    def __init__(self, storage: StoreParts) -> None:
        self._storage = storage
        self._pins = Pins(storage.path)
        self._removal = Removal(storage)
        self._sweep = Sweep(storage, self._removal)

    def plan(self, artifacts: Sequence[Artifact], policy: Policy) -> GcPlan:
        """Work out what would go of all the `artifacts` of the store. Nothing is changed.

        Raises OSError, StoreDamaged.
        """
        now = time.time_ns()
        used = self._removal.used_trees()
        fd = self._storage.fd
        found = select_candidates(
            [(artifact, artifact_links.last_used_ns(fd, artifact)) for artifact in artifacts],
            policy,
            used=used,
            pinned=self._pins.signatures(),
            now_ns=now,
        )
        idle_merged = [m for m in self._storage.compositions.iter_merged() if m.tree not in used]
        release = FreedBytes(self._storage, artifacts, idle_merged)
        before_ns = now - policy.least_age_ns
        unused = self._sweep.size(release, before_ns)
        size = None
        if policy.max_size is not None:
            trees = {artifact.tree: artifact.overhead for artifact in artifacts}
            size = space(self._storage, trees).disk - unused
        excess = None if policy.max_size is None or size is None else size - policy.max_size
        doomed = tuple(_doomed(found, release, excess))
        return GcPlan(doomed, before_ns, len(artifacts) - len(doomed), unused, size)

    def collect(self, plan: GcPlan, progress: Progress) -> Collected:
        """Sweep, and carry out a plan. What was used, pinned or put since the plan stays.

        The sweep comes first: on a full disk, the index may need what it gives back. `progress`
        gets bytes that came back, of those of the plan. Raises OSError, StoreDamaged,
        IndexUnavailable.
        """

        gone: list[Artifact] = []
        with reserve_released(self._storage.fd):
            freed = self._sweep.run()
            for start in range(0, len(plan.doomed), _BATCH):
                batch = plan.doomed[start : start + _BATCH]
                for done in self._remove(batch, _PlanProgress(progress, plan.frees, freed)):
                    gone += done.artifacts
                    freed += done.freed
                progress.update(min(freed, plan.frees), plan.frees, freed)
            freed += self._sweep.compositions(plan.before_ns)
        delete_old_logs(self._storage.fd)
        return Collected(tuple(gone), freed)

    def _remove(self, batch: Sequence[Doomed], progress: Progress) -> Iterator[Removed]:
        """Remove artifacts at once; one by one where there is no space for so large a change."""
        reasons = {one.artifact.signature: one.reason for one in batch}
        still = partial(self._still, batch)
        try:
            yield self._removal.remove(
                still, EventKind.COLLECTED, lambda a: reasons[a.signature], progress
            )
        except IndexUnavailable:
            if len(batch) == 1:
                raise
            for one in batch:
                yield from self._remove([one], progress)

    def _still(self, batch: Sequence[Doomed], writer: Writer) -> list[Artifact]:
        """Return what may still go, now that nothing can change."""
        used, pinned = self._removal.used_trees(), self._pins.signatures()
        return [
            one.artifact
            for one in batch
            if writer.get(one.artifact.signature) == one.artifact
            and one.artifact.tree not in used
            and one.artifact.signature not in pinned
            and artifact_links.last_used_ns(self._storage.fd, one.artifact) == one.last_used_ns
        ]


def _doomed(
    found: Sequence[Candidate], release: FreedBytes, excess: int | None
) -> Iterator[Doomed]:
    """Yield what goes of what may go: everything, or until `excess` bytes have come back."""
    for one in found:
        if excess is not None and excess <= 0:
            return
        frees = release.of(one.artifact)
        if excess is not None:
            excess -= frees
        yield Doomed(one.artifact, one.last_used_ns, one.reason, frees)
