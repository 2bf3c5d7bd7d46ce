"""Merged layers: the lowest trees of a composition in one layer, if it has too many to mount."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cas.compose.cache import MergedLayer
from cas.content.digest import hash_bytes
from cas.content.layers import overhead
from cas.disk.boot import boot_id
from cas.disk.layout import MAX_LAYERS
from cas.disk.log import EventKind, append_events, new_event
from cas.disk.scratch import scratch
from cas.errors import CasError, StoreDamaged
from cas.index.parts import StoreParts
from cas.model.manifest import Digest, Manifest
from cas.model.union import union
from cas.system.signals import signals_blocked
from cas.system.text import quoted


class MergedLayers:
    """Builds the merged layers of a store, and finds existing ones."""

    def __init__(self, storage: StoreParts) -> None:
        self._storage = storage
        self._cache = storage.compositions

    def layers(self, trees: Sequence[Digest]) -> tuple[Digest, ...] | None:
        """Return the trees to mount for `trees`, lowest first.

        These are `trees` themselves, or a merged layer and the highest of them; None if the merged
        layer has to be built first.
        """
        if len(trees) <= MAX_LAYERS:
            return tuple(trees)
        parts, rest = _parts(trees)
        merged = self._cache.merged(parts)
        if merged is None or not self._storage.layers.exists(merged.tree):
            return None
        return (merged.tree, *rest)

    def make(self, trees: Sequence[Digest]) -> None:
        """Build the merged layer of `trees`, on which the caller has a lease.

        Raises CasError (the store is read-only), OSError, StoreDamaged.
        """
        if os.fstatvfs(self._storage.fd).f_flag & os.ST_RDONLY:
            raise CasError(
                f"{len(trees)} trees need a merged layer, and the store "
                f"{quoted(self._storage.path)} is on a read-only file system",
                hint="mount the file system read-write, or compose it once on a writable store",
            )
        parts, _ = _parts(trees)
        nodes = union(map(self._storage.layers.manifest, parts))
        manifest = Manifest({path: node for path, (node, _) in nodes.items()})
        merged = MergedLayer(hash_bytes(manifest.encode()), parts, boot_id())
        with scratch(self._storage.fd, "merge") as work:
            self._storage.layers.build(manifest, work)
            size = overhead(manifest, b"layer", b"manifest", work.fd)
            with self._storage.index.locked(exclusive=True), signals_blocked():
                if self._storage.layers.exists(merged.tree):
                    size = 0
                self._storage.layers.publish(merged.tree, work)
                size += self._cache.store_merged(merged)
                what = f"{len(parts)} trees of a sysroot of {len(trees)}"
                built = new_event(EventKind.MERGED, tree=merged.tree, size=size, what=what)
                append_events(self._storage.fd, [built])

    def recheck(self, layers: Sequence[Digest], trees: Sequence[Digest]) -> bool:
        """Recheck a merged layer of an earlier boot, which a power failure may have damaged.

        Returns whether `layers` can be mounted; if not, the caller must find them again.
        """
        if layers[:1] == trees[:1]:
            return True
        parts, _ = _parts(trees)
        merged = self._cache.merged(parts)
        if merged is None:
            return False
        if merged.boot_id == boot_id():
            return True
        try:
            damaged = any(True for _ in self._storage.layers.find_faults(merged.tree))
        except (FileNotFoundError, StoreDamaged):
            damaged = True
        with self._storage.index.locked(exclusive=True):
            if damaged:
                self._cache.remove_merged(merged)
                with scratch(self._storage.fd, "rm") as aside:
                    self._storage.layers.withdraw(merged.tree, aside)
            else:
                self._cache.store_merged(MergedLayer(merged.tree, parts, boot_id()))
        return not damaged

    def find_unused(self, used: set[str], before_ns: int) -> list[MergedLayer]:
        """Return unused merged layers that lack a part, or were last used before `before_ns`."""
        exists, cache = self._storage.layers.exists, self._cache
        return [
            merged
            for merged in cache.iter_merged()
            if merged.tree not in used
            and (cache.last_used_ns(merged) < before_ns or not all(map(exists, merged.parts)))
        ]


def _parts(trees: Sequence[Digest]) -> tuple[tuple[Digest, ...], tuple[Digest, ...]]:
    """Split trees into those to merge and those to mount separately."""
    cut = len(trees) - MAX_LAYERS + 1
    return tuple(trees[:cut]), tuple(trees[cut:])
