"""The sweep: deletes unreachable files, such as leftovers of killed processes.

A file counts as unreachable under the lock, or by its number of links, so the sweep can run beside
all other commands.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from cas.content.objects import unlink_unused
from cas.disk.last_use import TICK_NS
from cas.disk.layout import content_of_object
from cas.disk.leases import oldest_put_ns
from cas.disk.mount_records import remove_truncated_records
from cas.disk.scratch import move_stale, scratch, stale_names
from cas.gc.removal import Removal
from cas.index import artifact_links
from cas.index.parts import StoreParts
from cas.model.manifest import Digest, is_digest
from cas.model.signature import Signature
from cas.system.directories import Node, open_directory, walk
from cas.system.remove_tree import remove
from cas.usage.space import FreedBytes


class Sweep:
    """Sweeps a store."""

    def __init__(self, storage: StoreParts, removal: Removal) -> None:
        self._storage = storage
        self._cache = storage.compositions
        self._removal = removal

    def run(self) -> int:
        """Sweep everything; return the disk space freed (bytes). Raises OSError, StoreDamaged."""
        self._links()
        return self._temporary() + self.compositions() + self._layers() + self._objects()

    def compositions(self, before_ns: int = 0) -> int:
        """Delete merged layers and cached overlaps that lack a part, or were last used too early.

        That is before `before_ns`. Returns the disk space freed (bytes). Raises OSError,
        StoreDamaged.
        """
        with self._storage.index.read() as reader:
            trees = reader.trees()
        freed = self._removal.discard_merged(before_ns)
        return freed + self._cache.prune_overlaps(trees, before_ns)

    def size(self, freed_bytes: FreedBytes, before_ns: int) -> int:
        """Return the disk space (bytes) that `run` and `compositions(before_ns)` would free.

        `freed_bytes` predicts it. Raises OSError, StoreDamaged.
        """
        with self._storage.index.read() as reader:
            trees = reader.trees()
        freed = self._cache.prunable_overlap_bytes(trees, before_ns)
        freed += sum(map(freed_bytes.remove_merged, self._removal.find_unused_merged(before_ns)))
        used = self._removal.used_trees()
        freed += sum(freed_bytes.remove_layer(t) for t in self._stray_layers() if t not in used)
        with open_directory(b"tmp", self._storage.fd) as tmp:
            for name in stale_names(tmp):
                freed += freed_bytes.remove_entry(name, tmp)
        return freed + sum(found.stat.st_blocks * 512 for found in self._unused_objects())

    def _temporary(self) -> int:
        """Delete the leftovers of killed processes in `tmp/`."""
        with scratch(self._storage.fd, "sweep") as aside:
            remove_truncated_records(self._storage.path)
            dead = move_stale(self._storage.fd, aside.fd)
            return sum(remove(name, aside.fd) for name in dead)

    def _links(self) -> None:
        """Delete links of IDs without a record, and directories of recipes without links."""
        index, store = self._storage.index, self._storage.fd
        with index.read() as reader:
            recorded = reader.names()
        stray: list[Signature] = []
        empty: list[str] = []
        for recipe, names in artifact_links.names_by_recipe(store):
            stray += artifact_links.parse_names(name for name in names if name not in recorded)
            empty += [] if names else [recipe]
        if not stray and not empty:
            return
        with index.write() as writer:
            for signature in stray:
                if writer.get(signature) is None:
                    artifact_links.remove_link(store, signature)
            for recipe in empty:
                artifact_links.remove_empty_recipe(store, recipe)

    def _stray_layers(self) -> list[Digest]:
        """Return the trees of layers and manifests that no record or merged layer needs."""
        with self._storage.index.read() as reader:
            needed = reader.trees()
        needed |= {merged.tree for merged in self._cache.iter_merged()}
        names: set[str] = set()
        for directory in (b"layers", b"manifests"):
            with open_directory(directory, self._storage.fd) as fd:
                names.update(os.listdir(fd))
        return [Digest(name) for name in sorted(names - needed) if is_digest(name)]

    def _layers(self) -> int:
        """Delete unused stray layers."""
        stray = self._stray_layers()
        return self._removal.discard(stray) if stray else 0

    def _objects(self) -> int:
        """Delete unused objects."""
        return sum(unlink_unused(node.name, node.dir_fd) for node in self._unused_objects())

    def _unused_objects(self) -> Iterator[Node]:
        """Yield objects that no layer links to, except those of running puts."""
        before = min(time.time_ns(), oldest_put_ns(self._storage.path)) - TICK_NS
        with open_directory(b"objects", self._storage.fd) as root:
            for node in walk(root, vanishing=True):
                unused = node.stat.st_nlink == 1 and node.stat.st_mtime_ns < before
                if unused and content_of_object(node.path) is not None:
                    yield node
