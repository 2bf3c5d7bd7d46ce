"""Disk space: what a store takes, and what would come back if artifacts went."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from cas.compose.cache import MergedLayer
from cas.content.layers import overhead
from cas.content.objects import ObjectKey
from cas.disk.layout import artifact_path, layer_path, manifest_path
from cas.errors import StoreDamaged
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.model.manifest import Digest, is_digest
from cas.system.directories import open_directory, walk
from cas.system.disk_use import disk_use, disk_use_at

_NOT_WALKED = (b"layers", b"manifests")


class Space(NamedTuple):
    """What a store takes: `disk` bytes of disk, as du(1) tells them.

    `contents` are the objects in use that are part of that, of `content_bytes` in all.
    """

    disk: int
    contents: int
    content_bytes: int


def space(storage: StoreParts, trees: dict[Digest, int]) -> Space:
    """Measure what a store takes. `trees` are those of its artifacts, with their overheads.

    Raises OSError.
    """
    disk = sum(trees.values()) + os.fstat(storage.fd).st_blocks * 512
    contents = content_bytes = 0
    for name in os.listdir(os.path.join(storage.path, b"layers")):
        tree = os.fsdecode(name)
        if is_digest(tree) and tree not in trees:
            disk += layer_overhead(storage, Digest(tree))
    for name in map(os.fsencode, os.listdir(storage.fd)):
        found = os.stat(name, dir_fd=storage.fd, follow_symlinks=False)
        disk += found.st_blocks * 512
        if not stat.S_ISDIR(found.st_mode) or name in _NOT_WALKED:
            continue
        with open_directory(name, storage.fd) as root:
            for node in walk(root, vanishing=True):
                if name == b"tmp" and disk_use(node.stat) == 0:
                    continue  # a link to an object
                disk += node.stat.st_blocks * 512
                if name == b"objects" and stat.S_ISREG(node.stat.st_mode):
                    in_use = node.stat.st_nlink > 1
                    contents += in_use
                    content_bytes += in_use * node.stat.st_size
    return Space(disk, contents, content_bytes)


def layer_overhead(storage: StoreParts, tree: Digest) -> int:
    """Return what a layer takes besides the objects; 0 if it is gone or damaged. Raises OSError."""
    try:
        manifest = storage.layers.manifest(tree)
        return overhead(manifest, layer_path(tree), manifest_path(tree), storage.fd)
    except (FileNotFoundError, StoreDamaged):
        return 0


class _Gone:
    """What has gone: counts of names, what links are left of objects, and merged layers."""

    def __init__(self) -> None:
        self.recipes = Counter[str]()
        self.trees = Counter[Digest]()
        self.links: dict[int, int] = {}  # of inodes
        self.merged = set[Digest]()


class FreedBytes:
    """Works out what comes back when artifacts go, one after the other.

    A content comes back with the last layer that links to it: the file system counts the links.
    `artifacts` are all that there are, `merged` the merged layers that would go too, since nobody
    uses them.
    """

    def __init__(
        self,
        storage: StoreParts,
        artifacts: Iterable[Artifact],
        merged: Iterable[MergedLayer],
    ) -> None:
        self._storage = storage
        artifacts = tuple(artifacts)
        self._recipes = Counter(artifact.signature.recipe for artifact in artifacts)
        self._trees = Counter(artifact.tree for artifact in artifacts)
        self._merged: dict[Digest, list[MergedLayer]] = {}
        for layer in merged:
            for part in layer.parts:
                self._merged.setdefault(part, []).append(layer)
        self._gone = _Gone()

    def of(self, artifact: Artifact) -> int:
        """Return the bytes of disk that come back with this artifact. Raises OSError."""
        gone, tree, recipe = self._gone, artifact.tree, artifact.signature.recipe
        link = artifact_path(artifact.signature)
        freed = disk_use_at(link, self._storage.fd)
        gone.recipes[recipe] += 1
        if gone.recipes[recipe] == self._recipes[recipe]:
            freed += disk_use_at(os.path.dirname(link), self._storage.fd)
        gone.trees[tree] += 1
        if gone.trees[tree] == self._trees[tree]:
            freed += artifact.overhead + self._of_tree(tree)
            for layer in self._merged.get(tree, ()):
                freed += self.of_merged(layer)
        return freed

    def of_merged(self, merged: MergedLayer) -> int:
        """Return the bytes of disk that come back with a merged layer. Raises OSError."""
        gone, tree = self._gone, merged.tree
        if self._trees[tree] > gone.trees[tree] or tree in gone.merged:
            return 0
        gone.merged.add(tree)
        return self._storage.compositions.entry_bytes(merged) + self.of_layer(tree)

    def of_layer(self, tree: Digest) -> int:
        """Return the bytes of disk that come back with a layer. Raises OSError."""
        return layer_overhead(self._storage, tree) + self._of_tree(tree)

    def of_entry(self, name: bytes, dir_fd: int) -> int:
        """Return the bytes of disk that come back with a file, or a directory and all in it.

        Raises OSError.
        """
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            return self._unlinked(found)
        freed = found.st_blocks * 512
        with open_directory(name, dir_fd) as directory:
            for node in walk(directory, vanishing=True):
                is_directory = stat.S_ISDIR(node.stat.st_mode)
                freed += node.stat.st_blocks * 512 if is_directory else self._unlinked(node.stat)
        return freed

    def alone(self, artifact: Artifact) -> int:
        """Return the bytes of disk that come back if this artifact goes and no other one.

        Raises OSError.
        """
        before, self._gone = self._gone, _Gone()
        try:
            return self.of(artifact)
        finally:
            self._gone = before

    def _of_tree(self, tree: Digest) -> int:
        try:
            manifest = self._storage.layers.manifest(tree)
            owner = os.stat(layer_path(tree), dir_fd=self._storage.fd).st_uid
        except (FileNotFoundError, StoreDamaged):
            return 0
        objects = self._storage.objects
        keys = [key for entry in manifest if (key := ObjectKey.of(entry)) is not None]
        linked = (objects.linked_by(key, owner) for key in keys)
        return sum(self._unlinked(one[1]) for one in linked if one is not None)

    def _unlinked(self, found: os.stat_result) -> int:
        """Take one link from a file; return its size if but an object's own name is left, or none.

        What has no other name than that is another's to count.
        """
        left = self._gone.links.get(found.st_ino, found.st_nlink) - 1
        self._gone.links[found.st_ino] = left
        return found.st_blocks * 512 if left == 1 or (left == 0 and found.st_nlink == 1) else 0
