"""Removes artifacts and trees, and frees the space that nothing else uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from functools import partial
from typing import NamedTuple

from cas.compose.cache import MergedLayer
from cas.compose.merged_layers import MergedLayers
from cas.disk.leases import Use, lease_uses
from cas.disk.log import EventKind, append_events, new_event
from cas.disk.mount_records import mount_uses
from cas.disk.reserve import reserve_released
from cas.disk.scratch import Scratch, scratch
from cas.errors import InUse
from cas.index import artifact_links
from cas.index.database import Writer
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.model.manifest import Digest
from cas.model.signature import Signature
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.signals import signals_blocked
from cas.system.workers import run_parallel

_MIN_MANIFEST_BYTES_PER_WORKER = 200_000
"""Manifest bytes below which starting a worker costs more than it saves."""


class Removed(NamedTuple):
    """The removed artifacts, and the disk space freed (bytes)."""

    artifacts: tuple[Artifact, ...]
    freed: int


class Removal:
    """Removes artifacts and trees from a store."""

    def __init__(self, storage: StoreParts) -> None:
        self._storage = storage
        self._cache = storage.compositions
        self._merged_layers = MergedLayers(storage)

    def uses(self) -> list[Use]:
        """Return the uses of running processes and mounts. Raises OSError, StoreDamaged."""
        store = self._storage.path
        return [*lease_uses(store), *mount_uses(store)]

    def used_trees(self) -> set[str]:
        """Return all trees in use. Raises OSError, StoreDamaged."""
        return {tree for use in self.uses() for tree in use.trees}

    def remove(
        self,
        choose: Callable[[Writer], Sequence[Artifact]],
        kind: EventKind,
        why: Callable[[Artifact], str] = lambda artifact: "",
        progress: Progress = NO_PROGRESS,
    ) -> Removed:
        """Remove the artifacts that `choose` returns, and the files that only they need.

        `choose` is called under the store's exclusive lock. If it raises, nothing is removed.
        The log gets an event of this `kind` for each artifact, with the reason `why`. `progress`
        counts the bytes freed; it is committed when the records are deleted. Raises OSError, and
        the exceptions of `choose`.
        """
        with reserve_released(self._storage.fd):
            with self._storage.index.locked(exclusive=True):
                with signals_blocked():
                    with self._storage.index.transaction() as writer:
                        artifacts = tuple(choose(writer))
                        for artifact in artifacts:
                            writer.delete(artifact.signature)
                    append_events(
                        self._storage.fd,
                        [new_event(kind, a.signature, what=why(a)) for a in artifacts],
                    )
                    progress.committed()
                for artifact in artifacts:
                    artifact_links.remove_link(self._storage.fd, artifact.signature)
            trees = {artifact.tree for artifact in artifacts}
            return Removed(artifacts, self.discard(trees, progress=progress))

    def discard(
        self,
        trees: Iterable[Digest],
        merged: Sequence[MergedLayer] = (),
        progress: Progress = NO_PROGRESS,
    ) -> int:
        """Delete trees and `merged` layers that are unreachable and unused; return the bytes freed.

        Raises OSError, StoreDamaged.
        """
        storage = self._storage
        storage.index.sync()  # first: a power failure must not restore a record without its layer
        with scratch(storage.fd, "rm") as aside:
            with storage.index.locked(exclusive=True):
                used = self.used_trees()
                freed = sum(self._cache.remove_merged(m) for m in merged if m.tree not in used)
                used |= {layer.tree for layer in self._cache.iter_merged()}
                asked = {*trees, *(layer.tree for layer in merged)}
                with storage.index.transaction() as reader:
                    idle = [t for t in asked if t not in used and not reader.of_tree(t)]
                for tree in idle:
                    storage.layers.withdraw(tree, aside)
            freed += self._reclaim(idle, aside, progress)
        if freed:
            append_events(storage.fd, [new_event(EventKind.FREED, size=freed)])
        return freed

    def _reclaim(self, trees: Sequence[Digest], aside: Scratch, progress: Progress) -> int:
        """Delete withdrawn trees on all processors; return the bytes freed."""
        layers = self._storage.layers

        def work(part: Sequence[Digest], emit: Callable[[int], None]) -> None:
            for tree in part:
                for freed in layers.reclaim(tree, aside):
                    emit(freed)

        total = 0

        def on_result(freed: int) -> None:
            nonlocal total
            total += freed
            progress.update(0, 0, total)

        weight = partial(layers.withdrawn_size, scratch=aside)
        run_parallel(
            work, trees, on_result, weight=weight, min_weight=_MIN_MANIFEST_BYTES_PER_WORKER
        )
        return total

    def discard_merged(self, before_ns: int = 0) -> int:
        """Delete unneeded merged layers; return the bytes freed.

        Raises OSError, StoreDamaged.
        """
        unneeded = self.find_unused_merged(before_ns)
        return self.discard((), unneeded) if unneeded else 0

    def find_unused_merged(self, before_ns: int) -> list[MergedLayer]:
        """Return the merged layers to remove; see `MergedLayers.find_unused`.

        Raises OSError, StoreDamaged.
        """
        return self._merged_layers.find_unused(self.used_trees(), before_ns)


def refuse_used(artifacts: Iterable[Artifact], uses: Iterable[Use], pinned: Set[Signature]) -> None:
    """Refuse to remove artifacts that are in use or pinned. Raises InUse."""
    for artifact in artifacts:
        for use in uses:
            if artifact.tree in use.trees:
                raise InUse(
                    f"{artifact.signature} is in use by {use.what}",
                    hint="unmount it (`cas umount`), or wait until the task has ended",
                )
        if artifact.signature in pinned:
            raise InUse(
                f"{artifact.signature} is pinned",
                hint=f"unpin it first: `cas unpin {artifact.signature}`",
            )
