"""Garbage collection: plans and removes artifacts that no limit keeps, and unreachable files."""

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

_BATCH_ARTIFACTS = 500
"""Artifacts removed under one lock, for which other processes wait."""


class Doomed(NamedTuple):
    """An artifact to remove; `frees` is the disk space (bytes) that this frees."""

    artifact: Artifact
    last_used_ns: int
    reason: str
    frees: int


class GcPlan(NamedTuple):
    """The plan of a garbage collection; `doomed` artifacts are removed in that order.

    `kept` is the number of artifacts that are kept. Cached facts about compositions are removed if
    they were last used before `before_ns`. `unused` is the disk space (bytes) of unreachable files,
    and `size` that of the store without them, or None if the policy has no size limit.
    """

    doomed: tuple[Doomed, ...]
    before_ns: int
    kept: int
    unused: int
    size: int | None

    @property
    def frees(self) -> int:
        """The disk space (bytes) that the collection frees."""
        return self.unused + sum(doomed.frees for doomed in self.doomed)

    @property
    def left(self) -> int | None:
        """The disk space (bytes) of the store afterwards, or None without a size limit."""
        return None if self.size is None else self.size + self.unused - self.frees


class Collected(NamedTuple):
    """The result of a collection: the removed artifacts, and the disk space freed (bytes)."""

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
    """Plans and carries out garbage collections of a store."""

    def __init__(self, storage: StoreParts) -> None:
        self._storage = storage
        self._pins = Pins(storage.path)
        self._removal = Removal(storage)
        self._sweep = Sweep(storage, self._removal)

    def plan(self, artifacts: Sequence[Artifact], policy: Policy) -> GcPlan:
        """Plan a collection of all `artifacts` of the store. Nothing is changed.

        Raises OSError, StoreDamaged.
        """
        now = time.time_ns()
        used = self._removal.used_trees()
        fd = self._storage.fd
        candidates = select_candidates(
            [(artifact, artifact_links.last_used_ns(fd, artifact)) for artifact in artifacts],
            policy,
            used=used,
            pinned=self._pins.signatures(),
            now_ns=now,
        )
        unused_merged = [m for m in self._storage.compositions.iter_merged() if m.tree not in used]
        freed_bytes = FreedBytes(self._storage, artifacts, unused_merged)
        before_ns = now - policy.min_age_ns
        unused = self._sweep.size(freed_bytes, before_ns)
        size = None
        if policy.max_size is not None:
            size = space(self._storage, artifacts).disk - unused
        excess = None if policy.max_size is None or size is None else size - policy.max_size
        doomed = tuple(_doomed(candidates, freed_bytes, excess))
        return GcPlan(doomed, before_ns, len(artifacts) - len(doomed), unused, size)

    def collect(self, plan: GcPlan, progress: Progress) -> Collected:
        """Sweep, and carry out a plan. Artifacts used, pinned or put since the plan are kept.

        The sweep comes first: on a full disk, the index may need the space that it frees.
        `progress` counts bytes freed, out of those of the plan. Raises OSError, StoreDamaged,
        IndexUnavailable.
        """

        gone: list[Artifact] = []
        with reserve_released(self._storage.fd):
            freed = self._sweep.run()
            for start in range(0, len(plan.doomed), _BATCH_ARTIFACTS):
                batch = plan.doomed[start : start + _BATCH_ARTIFACTS]
                for done in self._remove(batch, _PlanProgress(progress, plan.frees, freed)):
                    gone += done.artifacts
                    freed += done.freed
                progress.update(min(freed, plan.frees), plan.frees, freed)
            progress.update(plan.frees, plan.frees, freed)  # the plan is an estimate
            freed += self._sweep.compositions(plan.before_ns)
        delete_old_logs(self._storage.fd)
        return Collected(tuple(gone), freed)

    def _remove(self, batch: Sequence[Doomed], progress: Progress) -> Iterator[Removed]:
        """Remove artifacts in one transaction; one by one if the disk has no space for it."""
        reasons = {doomed.artifact.signature: doomed.reason for doomed in batch}
        still = partial(self._still, batch)
        try:
            yield self._removal.remove(
                still, EventKind.COLLECTED, lambda a: reasons[a.signature], progress
            )
        except IndexUnavailable:
            if len(batch) == 1:
                raise
            for doomed in batch:
                yield from self._remove([doomed], progress)

    def _still(self, batch: Sequence[Doomed], writer: Writer) -> list[Artifact]:
        """Return the artifacts of a batch that are still unused, under the exclusive lock."""
        used, pinned = self._removal.used_trees(), self._pins.signatures()
        return [
            artifact
            for artifact, last_used_ns, *_ in batch
            if writer.get(artifact.signature) == artifact
            and artifact.tree not in used
            and artifact.signature not in pinned
            and artifact_links.last_used_ns(self._storage.fd, artifact) == last_used_ns
        ]


def _doomed(
    candidates: Sequence[Candidate], freed_bytes: FreedBytes, excess: int | None
) -> Iterator[Doomed]:
    """Yield the candidates to remove: all, or as many as free `excess` bytes."""
    for candidate in candidates:
        if excess is not None and excess <= 0:
            return
        frees = freed_bytes.remove(candidate.artifact)
        if excess is not None:
            excess -= frees
        yield Doomed(candidate.artifact, candidate.last_used_ns, candidate.reason, frees)
