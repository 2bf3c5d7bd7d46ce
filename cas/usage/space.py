"""The disk space of a store, and the space that removing artifacts frees."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from cas.compose.cache import MergedLayer
from cas.content.layers import layer_bytes
from cas.content.objects import ObjectKey
from cas.disk.layout import layer_path
from cas.errors import StoreDamaged
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.model.manifest import Digest, is_digest
from cas.system.directories import open_directory, walk
from cas.system.disk_use import disk_use

_NOT_WALKED = (b"layers", b"manifests")


class Space(NamedTuple):
    """The disk space of a store in bytes (`disk`), about as du(1) reports it.

    `contents` is the number of objects in use, and `content_bytes` their size.
    """

    disk: int
    contents: int
    content_bytes: int


def space(storage: StoreParts, artifacts: Iterable[Artifact]) -> Space:
    """Measure the disk space of a store with these artifacts. Raises OSError.

    Layers have many directories and no contents of their own, so their space is estimated.
    """
    trees = {artifact.tree: artifact.layer_bytes for artifact in artifacts}
    disk = sum(trees.values()) + os.fstat(storage.fd).st_blocks * 512
    contents = content_bytes = 0
    for name in os.listdir(os.path.join(storage.path, b"layers")):
        tree = os.fsdecode(name)
        if is_digest(tree) and tree not in trees:
            disk += stored_layer_bytes(storage, Digest(tree))
    for name in map(os.fsencode, os.listdir(storage.fd)):
        found = os.stat(name, dir_fd=storage.fd, follow_symlinks=False)
        disk += found.st_blocks * 512
        if not stat.S_ISDIR(found.st_mode) or name in _NOT_WALKED:
            continue
        with open_directory(name, storage.fd) as root:
            for node in walk(root, vanishing=True):
                if name == b"tmp" and disk_use(node.stat) == 0:
                    continue  # a second link to an object
                disk += node.stat.st_blocks * 512
                if name == b"objects" and stat.S_ISREG(node.stat.st_mode):
                    in_use = node.stat.st_nlink > 1
                    contents += in_use
                    content_bytes += in_use * node.stat.st_size
    return Space(disk, contents, content_bytes)


def stored_layer_bytes(storage: StoreParts, tree: Digest) -> int:
    """Estimate the disk space (bytes) of a layer without contents; 0 if damaged. Raises OSError."""
    try:
        return layer_bytes(storage.layers.manifest(tree))
    except (FileNotFoundError, StoreDamaged):
        return 0


class _RemovedParts:
    """The parts removed so far: numbers of artifacts by tree, links left, and merged layers."""

    def __init__(self) -> None:
        self.trees = Counter[Digest]()
        self.links: dict[int, int] = {}  # links left of each inode
        self.merged = set[Digest]()


class FreedBytes:
    """Predicts the disk space that is freed as artifacts are removed one after the other.

    An object is freed with the last layer that links to it; the file system counts the links.
    Contents are exact, and the directories and manifests of layers are estimated.
    `artifacts` are all artifacts of the store, and `merged` the unused merged layers, which are
    removed with their parts.
    """

    def __init__(
        self,
        storage: StoreParts,
        artifacts: Iterable[Artifact],
        merged: Iterable[MergedLayer],
    ) -> None:
        self._storage = storage
        self._trees = Counter(artifact.tree for artifact in artifacts)
        self._merged: dict[Digest, list[MergedLayer]] = {}
        for layer in merged:
            for part in layer.parts:
                self._merged.setdefault(part, []).append(layer)
        self._removed = _RemovedParts()

    def remove(self, artifact: Artifact) -> int:
        """Return the disk space (bytes) freed by removing an artifact next. Raises OSError."""
        removed, tree = self._removed, artifact.tree
        removed.trees[tree] += 1
        if removed.trees[tree] < self._trees[tree]:
            return 0
        merged = sum(map(self.remove_merged, self._merged.get(tree, ())))
        return artifact.layer_bytes + self._of_tree(tree) + merged

    def remove_merged(self, merged: MergedLayer) -> int:
        """Return the disk space (bytes) freed by removing a merged layer next. Raises OSError."""
        removed, tree = self._removed, merged.tree
        if self._trees[tree] > removed.trees[tree] or tree in removed.merged:
            return 0
        removed.merged.add(tree)
        return self.remove_layer(tree)

    def remove_layer(self, tree: Digest) -> int:
        """Return the disk space (bytes) freed by removing a layer next. Raises OSError."""
        return stored_layer_bytes(self._storage, tree) + self._of_tree(tree)

    def remove_entry(self, name: bytes, dir_fd: int) -> int:
        """Return the disk space (bytes) freed by removing a file or a directory tree next.

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

    def only(self, artifact: Artifact) -> int:
        """Return the disk space (bytes) freed by removing this artifact and no other one.

        Raises OSError.
        """
        before, self._removed = self._removed, _RemovedParts()
        try:
            return self.remove(artifact)
        finally:
            self._removed = before

    def _of_tree(self, tree: Digest) -> int:
        try:
            manifest = self._storage.layers.manifest(tree)
            owner = os.stat(layer_path(tree), dir_fd=self._storage.fd).st_uid
        except (FileNotFoundError, StoreDamaged):
            return 0
        objects = self._storage.objects
        keys = [key for entry in manifest if (key := ObjectKey.of(entry)) is not None]
        linked = (objects.linked_by(key, owner) for key in keys)
        return sum(self._unlinked(found[1]) for found in linked if found is not None)

    def _unlinked(self, found: os.stat_result) -> int:
        """Account for one removed link; return the file's size if no layer links to it any more.

        An object without layers is counted by the sweep.
        """
        left = self._removed.links.get(found.st_ino, found.st_nlink) - 1
        self._removed.links[found.st_ino] = left
        return found.st_blocks * 512 if left == 1 or (left == 0 and found.st_nlink == 1) else 0
