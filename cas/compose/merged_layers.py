"""Merged layers: the union of the lowest trees of a composition that has too many to mount."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cas.compose.cache import MergedLayer
from cas.content.digest import hash_bytes
from cas.content.layers import layer_bytes
from cas.content.objects import ConcurrentChange
from cas.disk.boot import boot_id
from cas.disk.layout import MAX_LAYERS
from cas.disk.log import EventKind, append_events, new_event
from cas.disk.scratch import scratch
from cas.errors import CasError, StoreDamaged
from cas.index.parts import StoreParts
from cas.model.manifest import Digest, Manifest
from cas.model.union import union
from cas.system.debug_log import debug
from cas.system.signals import signals_blocked
from cas.system.text import quoted


class MergedLayers:
    """Finds, makes and rechecks the merged layers of a store."""

    def __init__(self, storage: StoreParts) -> None:
        self._storage = storage
        self._cache = storage.compositions

    def find(self, trees: Sequence[Digest]) -> tuple[Digest, ...] | None:
        """Return the layers to mount for `trees`, lowest first.

        These are the trees themselves, or a merged layer and the highest of the trees. Returns None
        if the merged layer does not exist.
        """
        if len(trees) <= MAX_LAYERS:
            return tuple(trees)
        parts, rest = _parts(trees)
        merged = self._cache.merged(parts)
        if merged is None or not self._storage.layers.exists(merged.tree):
            return None
        return (merged.tree, *rest)

    def make(self, trees: Sequence[Digest]) -> None:
        """Make the merged layer for `trees`, on which the caller holds a lease.

        Raises CasError (the store is read-only), StoreDamaged, OSError.
        """
        if os.fstatvfs(self._storage.fd).f_flag & os.ST_RDONLY:
            raise CasError(
                f"cannot make a merged layer of {len(trees)} trees: the store "
                f"{quoted(self._storage.path)} is on a read-only file system",
                hint="mount the sysroot once on a machine that can write to the store",
            )
        parts, _ = _parts(trees)
        nodes = union(map(self._storage.layers.manifest, parts))
        manifest = Manifest({path: node for path, (node, _) in nodes.items()})
        merged = MergedLayer(hash_bytes(manifest.encode()), parts, boot_id())
        with scratch(self._storage.fd, "merge") as work:
            try:
                self._storage.layers.build(manifest, work)
            except ConcurrentChange as error:
                message = f"cannot make a merged layer of {len(parts)} trees: an object is missing"
                hint = "list the damage with `cas verify`, and repair it with `cas verify --repair`"
                raise StoreDamaged(message, hint=hint) from error
            size = layer_bytes(manifest)
            with self._storage.index.locked(exclusive=True), signals_blocked():
                if self._storage.layers.exists(merged.tree):
                    size = 0  # an artifact, or another composition, has this very tree
                self._storage.layers.publish(merged.tree, work)
                self._cache.store_merged(merged)
                what = f"{len(parts)} trees of a sysroot of {len(trees)}"
                event = new_event(EventKind.MERGED, tree=merged.tree, size=size, what=what)
                append_events(self._storage.fd, [event])
        debug("merged layer %s made of %d trees", merged.tree, len(parts))

    def recheck(self, layers: Sequence[Digest], trees: Sequence[Digest]) -> bool:
        """Return whether `layers`, found for `trees`, can be mounted; if not, find them again.

        Reads a merged layer of an earlier boot, which a power failure may have damaged, and
        withdraws it if it is. Raises OSError.
        """
        if layers[:1] == trees[:1]:
            return True  # no merged layer
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
        debug("merged layer %s of an earlier boot rechecked, damaged: %s", merged.tree, damaged)
        with self._storage.index.locked(exclusive=True):
            if damaged:
                self._cache.remove_merged(merged)
                with scratch(self._storage.fd, "rm") as aside:
                    self._storage.layers.withdraw(merged.tree, aside)
            else:
                self._cache.store_merged(MergedLayer(merged.tree, parts, boot_id()))
        return not damaged

    def find_unused(self, used: set[str], before_ns: int) -> list[MergedLayer]:
        """Return the merged layers to remove: unused, and incomplete or old.

        A layer is used if its tree is in `used`, incomplete if one of its parts is not in the
        store, and old if its last use was before `before_ns`.
        """
        exists, cache = self._storage.layers.exists, self._cache
        return [
            merged
            for merged in cache.iter_merged()
            if merged.tree not in used
            and (cache.last_used_ns(merged) < before_ns or not all(map(exists, merged.parts)))
        ]


def _parts(trees: Sequence[Digest]) -> tuple[tuple[Digest, ...], tuple[Digest, ...]]:
    """Divide trees into those to merge and those to mount; the merged layer is mounted, too."""
    cut = len(trees) - MAX_LAYERS + 1
    return tuple(trees[:cut]), tuple(trees[cut:])
