"""Disk space: what a store takes, and what would come back if artifacts went."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from cas.artifact import Artifact
from cas.dirs import disk_use, opened, walk
from cas.errors import StoreDamaged
from cas.known import Merged
from cas.layers import overhead
from cas.layout import artifact_path, layer_path, manifest_path
from cas.manifest import Digest
from cas.objects import ObjectKey
from cas.storage import Storage

_NOT_WALKED = (b"layers", b"manifests", b"tmp")


class Space(NamedTuple):
    """What a store takes.

    `disk` bytes of disk, but for `unused` ones, which a sweep would give back; `contents` objects
    in use are part of that, of `content_bytes` in all.
    """

    disk: int
    unused: int
    contents: int
    content_bytes: int


def space(storage: Storage, trees: dict[Digest, int], merged: Iterable[Merged]) -> Space:
    """Measure what a store takes. `trees` are those of its artifacts, with their overheads.

    Raises OSError.
    """
    disk = sum(trees.values()) + os.fstat(storage.fd).st_blocks * 512
    unused = contents = content_bytes = 0
    for layer in merged:
        if layer.tree not in trees:
            disk += _overhead(storage, layer.tree)
    for name in map(os.fsencode, os.listdir(storage.fd)):
        found = os.stat(name, dir_fd=storage.fd, follow_symlinks=False)
        disk += found.st_blocks * 512
        if not stat.S_ISDIR(found.st_mode) or name in _NOT_WALKED:
            continue
        with opened(name, storage.fd) as root:
            for node in walk(root, vanishing=True):
                is_object = name == b"objects" and stat.S_ISREG(node.stat.st_mode)
                if is_object and node.stat.st_nlink == 1:
                    unused += node.stat.st_blocks * 512
                    continue
                disk += node.stat.st_blocks * 512
                contents += is_object
                content_bytes += node.stat.st_size if is_object else 0
    return Space(disk, unused, contents, content_bytes)


def _overhead(storage: Storage, tree: Digest) -> int:
    """Return what a layer takes besides the objects; 0 if it is gone or damaged."""
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
        self.links: dict[bytes, int] = {}
        self.merged = set[Digest]()


class Release:
    """Works out what comes back when artifacts go, one after the other.

    A content comes back with the last layer that links to it: the file system counts the links.
    `artifacts` are all that there are, `merged` the merged layers that would go too.
    """

    def __init__(
        self, storage: Storage, artifacts: Iterable[Artifact], merged: Iterable[Merged]
    ) -> None:
        self._storage = storage
        artifacts = tuple(artifacts)
        self._recipes = Counter(artifact.signature.recipe for artifact in artifacts)
        self._trees = Counter(artifact.tree for artifact in artifacts)
        self._merged: dict[Digest, list[Merged]] = {}
        for layer in merged:
            for part in layer.parts:
                self._merged.setdefault(part, []).append(layer)
        self._gone = _Gone()

    def of(self, artifact: Artifact) -> int:
        """Return the bytes of disk that come back with this artifact. Raises OSError."""
        gone, tree, recipe = self._gone, artifact.tree, artifact.signature.recipe
        link = artifact_path(artifact.signature)
        freed = self._size(link)
        gone.recipes[recipe] += 1
        if gone.recipes[recipe] == self._recipes[recipe]:
            freed += self._size(os.path.dirname(link))
        gone.trees[tree] += 1
        if gone.trees[tree] == self._trees[tree]:
            freed += artifact.overhead + self._of_tree(tree)
            for layer in self._merged.get(tree, ()):
                left = self._trees[layer.tree] - gone.trees[layer.tree]
                if left == 0 and layer.tree not in gone.merged:
                    gone.merged.add(layer.tree)
                    freed += _overhead(self._storage, layer.tree) + self._of_tree(layer.tree)
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
        keys = [key for entry in manifest if (key := ObjectKey.of(entry)) is not None]
        return sum(self._unlinked(key, owner) for key in keys)

    def _unlinked(self, key: ObjectKey, owner: int) -> int:
        """Take one link from an object; return its size if it was the last but its own name."""
        linked = self._storage.objects.linked_by(key, owner)
        if linked is None:
            return 0
        path, found = linked
        left = self._gone.links.get(path, found.st_nlink) - 1
        self._gone.links[path] = left
        return found.st_blocks * 512 if left == 1 else 0

    def _size(self, path: bytes) -> int:
        try:
            return disk_use(os.stat(path, dir_fd=self._storage.fd, follow_symlinks=False))
        except FileNotFoundError:
            return 0
