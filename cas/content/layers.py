"""Layers: stored trees as directories of hard links to objects."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cas.content.digest import hash_file, verified_manifest, write_all
from cas.content.objects import ObjectKey, Objects
from cas.disk.group_sharing import directory_mode
from cas.disk.layout import layer_path, manifest_path
from cas.disk.scratch import Scratch
from cas.model.artifact import estimate_layer_bytes
from cas.model.manifest import (
    DIRECTORY,
    BadManifest,
    Digest,
    Entry,
    Kind,
    Manifest,
    file_node,
    symlink_node,
)
from cas.system.debug_log import debug
from cas.system.directories import DirCursor, Node, make_directory, open_directory
from cas.system.disk_use import disk_use
from cas.system.files import read_file
from cas.system.remove_tree import remove_tree
from cas.system.text import quoted

if TYPE_CHECKING:
    from cas.content.layer_check import LayerCheck

_PROGRESS_OBJECTS = 500
"""Progress is reported every so many objects."""


class Layers:
    """The layers and manifests of the store open at `store_fd` (borrowed)."""

    def __init__(self, store_fd: int, objects: Objects) -> None:
        self._store = store_fd
        self._objects = objects

    def exists(self, tree: Digest) -> bool:
        """Return whether the layer and its manifest exist."""
        return all(
            os.access(path, os.F_OK, dir_fd=self._store)
            for path in (layer_path(tree), manifest_path(tree))
        )

    def manifest(self, tree: Digest, *, to_compare: bool = False) -> Manifest:
        """Return the manifest of a tree; with `to_compare`, one for comparisons only.

        Raises OSError, BadManifest.
        """
        return _read_manifest(tree, self._store, to_compare=to_compare)

    def build(self, manifest: Manifest, scratch: Scratch) -> None:
        """Create the layer and the canonical manifest as `layer` and `manifest` in `scratch`.

        Raises ConcurrentChange, OSError.
        """
        remove_tree(b"layer", scratch.fd)
        mode = directory_mode(scratch.fd)
        make_directory(b"layer", mode, scratch.fd)
        with open_directory(b"layer", scratch.fd) as fd, DirCursor(fd) as cursor:
            for entry in manifest:
                parent, _, name = entry.path.rpartition(b"/")
                self._build_entry(entry, name, cursor.at(parent), mode)
            os.utime(fd)  # the root is the newest: a file that is newer was modified
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(b"manifest", flags, 0o644, dir_fd=scratch.fd)
        try:
            write_all(fd, manifest.encode())
            os.fchmod(fd, 0o444)
        finally:
            os.close(fd)

    def _build_entry(self, entry: Entry, name: bytes, dir_fd: int, directory_mode: int) -> None:
        if entry.kind is Kind.DIRECTORY:
            make_directory(name, directory_mode, dir_fd)
        elif entry.target is not None:
            os.symlink(entry.target, name, dir_fd=dir_fd)
        elif (key := ObjectKey.of(entry)) is not None:
            self._objects.link(key, name, dir_fd)

    def publish(self, tree: Digest, scratch: Scratch) -> None:
        """Move the layer and manifest of `build` to their final names. Raises OSError.

        The caller holds the store's exclusive lock. An existing name has the same tree.
        """
        # Not yet visible: a tree is only used through its record, which comes last.
        for source, path in ((b"layer", layer_path(tree)), (b"manifest", manifest_path(tree))):
            try:
                os.rename(source, path, src_dir_fd=scratch.fd, dst_dir_fd=self._store)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        debug("published the layer of tree %s", tree)

    def replace(self, tree: Digest, scratch: Scratch) -> None:
        """Replace a damaged layer and manifest with those of `build`. Raises OSError.

        The caller holds the store's exclusive lock. If the process dies in between, the layer is
        missing and its manifest exists.
        """
        new, old = scratch.fd, self._store
        # The slash at the end of the path: only a directory is moved away.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.rename(manifest_path(tree) + b"/", b"no-manifest", src_dir_fd=old, dst_dir_fd=new)
        os.rename(b"manifest", manifest_path(tree), src_dir_fd=new, dst_dir_fd=old)
        with contextlib.suppress(FileNotFoundError):
            os.rename(layer_path(tree), b"damaged", src_dir_fd=old, dst_dir_fd=new)
        os.rename(b"layer", layer_path(tree), src_dir_fd=new, dst_dir_fd=old)
        debug("replaced the damaged layer of tree %s", tree)

    def withdraw(self, tree: Digest, scratch: Scratch) -> None:
        """Move the layer and manifest into `scratch`. Raises OSError.

        The caller holds the store's exclusive lock.
        """
        for path in (layer_path(tree), manifest_path(tree)):
            with contextlib.suppress(FileNotFoundError):
                name = os.path.dirname(path)[:-1] + b"-" + tree.encode()
                os.rename(path, name, src_dir_fd=self._store, dst_dir_fd=scratch.fd)
        debug("withdrew the layer of tree %s", tree)

    def withdrawn_size(self, tree: Digest, scratch: Scratch) -> int:
        """Return the size (bytes) of a withdrawn manifest, or 0. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            return os.stat(b"manifest-" + tree.encode(), dir_fd=scratch.fd).st_size
        return 0

    def reclaim(self, tree: Digest, scratch: Scratch) -> Iterator[int]:
        """Delete a withdrawn layer and manifest, and the objects that nothing else links to.

        Yields the disk space freed (bytes) in parts. Objects of a damaged manifest are left to the
        sweep. Raises OSError.
        """
        name = b"manifest-" + tree.encode()
        freed = 0
        try:
            manifest = _read_manifest(tree, scratch.fd, name)
        except (FileNotFoundError, BadManifest):
            manifest = Manifest({})
        with contextlib.suppress(FileNotFoundError):
            freed += disk_use(os.stat(name, dir_fd=scratch.fd))
            os.unlink(name, dir_fd=scratch.fd)
        owner = os.geteuid()
        with contextlib.suppress(FileNotFoundError):
            layer = b"layer-" + tree.encode()
            owner = os.stat(layer, dir_fd=scratch.fd).st_uid
            freed += remove_tree(layer, scratch.fd)
        keys = {key for entry in manifest if (key := ObjectKey.of(entry)) is not None}
        for number, key in enumerate(keys, 1):
            freed += self._objects.remove_unused(key, owner)
            if number % _PROGRESS_OBJECTS == 0:
                yield freed
                freed = 0
        yield freed

    def check(self, objects: Mapping[int, bytes]) -> LayerCheck:
        """Return a LayerCheck for the layers of this store. Raises OSError."""
        from cas.content.layer_check import LayerCheck  # most commands check no layer

        with open_directory(b"layers", self._store) as fd:
            mode = directory_mode(fd)
        return LayerCheck(objects, mode, stamped=self._objects.keep_stamps)

    def find_faults(self, tree: Digest) -> Iterator[str]:
        """Compare a layer with its manifest, including contents; yield the faults as text.

        Raises OSError, BadManifest.
        """
        from cas.content.findings import FaultKind  # only after a reboot, or on damage
        from cas.content.hash_all import damaged_contents

        check = self.check({})
        with open_directory(layer_path(tree), self._store) as fd:
            for finding in check.compare(fd, self.manifest(tree), b""):
                if finding.kind is not FaultKind.WRITTEN:  # reading the content decides
                    yield f"{quoted(finding.path)} {finding.what}"
            for content, what in damaged_contents(fd, list(check.census.unnamed.values())):
                yield f"{quoted(content.path)} {what}"


def layer_bytes(manifest: Manifest) -> int:
    """Estimate the disk space (bytes) of a layer and its manifest without the contents."""
    directories = sum(node == DIRECTORY for node in manifest.nodes.values())
    return estimate_layer_bytes(directories, len(manifest.nodes) - directories)


def _read_manifest(
    tree: Digest, dir_fd: int, path: bytes | None = None, *, to_compare: bool = False
) -> Manifest:
    """Read the manifest of `tree` from the store open at `dir_fd`, or from `path` below it.

    Raises OSError, and BadManifest if it does not match the digest.
    """
    try:
        data = read_file(path or manifest_path(tree), dir_fd)
    except ValueError as error:
        raise BadManifest(str(error)) from error
    return verified_manifest(data, tree, to_compare=to_compare)


def node_of(entry: Node) -> bytes | None:
    """Return the node of an entry found by `walk`, with its content hashed; None if unsupported.

    Raises OSError.
    """
    mode = entry.stat.st_mode
    if stat.S_ISDIR(mode):
        return DIRECTORY
    if stat.S_ISLNK(mode):
        return symlink_node(os.readlink(entry.name, dir_fd=entry.dir_fd))
    if not stat.S_ISREG(mode):
        return None
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(entry.name, flags, dir_fd=entry.dir_fd)
    try:
        digest, size = hash_file(fd)
    finally:
        os.close(fd)
    return file_node(digest, size, executable=mode & 0o111 != 0)
