"""Repairs the findings of a verification, and withdraws artifacts that cannot be repaired."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from cas.content.census import content_name, content_path
from cas.content.digest import hash_file, verified_manifest
from cas.content.findings import FaultKind, Finding
from cas.content.layers import node_of
from cas.content.objects import ConcurrentChange
from cas.content.stamp import is_stamped, stamp_at
from cas.disk.group_sharing import directory_mode
from cas.disk.layout import content_of_object, layer_path, user_object_path
from cas.disk.log import EventKind
from cas.disk.scratch import scratch, temporary_path
from cas.errors import StoreDamaged
from cas.gc.removal import Removal
from cas.index import artifact_links
from cas.index.parts import StoreParts
from cas.model.manifest import DIRECTORY, Digest, Manifest
from cas.model.signature import BadSignature, Signature
from cas.system.directories import open_directory, shortened_path, walk
from cas.system.text import quoted
from cas.verify.rebuild_index import artifact_of

_WHOLE_LAYER = (FaultKind.MANIFEST, FaultKind.LAYER, FaultKind.ENTRY)


class Repair:
    """Repairs a store according to the findings of a full verification."""

    def __init__(self, storage: StoreParts) -> None:
        self._storage = storage
        self._removal = Removal(storage)

    def run(self, findings: Sequence[Finding]) -> Iterator[str]:
        """Repair what is possible; yield each repair as text. Raises OSError, StoreDamaged."""
        by_kind: dict[FaultKind, list[Finding]] = {kind: [] for kind in FaultKind}
        for found in findings:
            by_kind[found.kind].append(found)
        steps: Sequence[tuple[FaultKind, Callable[[Finding], Iterator[str]]]] = (
            (FaultKind.FOREIGN, self._foreign),
            (FaultKind.MODE, self._mode),
            (FaultKind.CONTENT, self._content),
            (FaultKind.OBJECT, self._object),
        )
        for kind, repair in steps:
            for found in by_kind[kind]:
                yield from self._if_permitted(found, repair)
        broken = [found for kind in (*_WHOLE_LAYER, FaultKind.CONTENT) for found in by_kind[kind]]
        for tree in dict.fromkeys(tree for found in broken for tree in found.trees):
            yield from self._layer(tree)
        for found in by_kind[FaultKind.WRITTEN]:
            yield from self._if_permitted(found, self._time)
        for found in (*by_kind[FaultKind.INDEX], *by_kind[FaultKind.RECORD]):
            for name in found.signatures:
                yield self._record(name)
        for found in by_kind[FaultKind.LINK]:
            yield from self._link(found)

    def _if_permitted(
        self, found: Finding, repair: Callable[[Finding], Iterator[str]]
    ) -> Iterator[str]:
        """Repair a finding, unless the file belongs to another user."""
        try:
            yield from repair(found)
        except PermissionError:
            yield f"left {quoted(found.path)}, which only its owner can repair"

    def _foreign(self, found: Finding) -> Iterator[str]:
        """Move a foreign entry to the quarantine."""
        aside = b"quarantine/" + os.path.basename(temporary_path("foreign"))
        fd = self._storage.fd
        os.rename(found.path, aside, src_dir_fd=fd, dst_dir_fd=fd)
        yield f"moved {quoted(found.path)} to {quoted(aside)}"

    def _mode(self, found: Finding) -> Iterator[str]:
        _, node = self._node(found)
        with open_directory(b"layers", self._storage.fd) as layers:
            of_directory = directory_mode(layers)
        mode = of_directory if node == DIRECTORY else 0o555 if node.startswith(b"x") else 0o444
        with shortened_path(found.path, self._storage.fd) as (name, directory):
            os.chmod(name, mode, dir_fd=directory)  # by name: the mode may forbid opening it
        yield f"restored mode {mode:04o} of {quoted(found.path)}"

    def _time(self, found: Finding) -> Iterator[str]:
        """Set the time of a file with the right content to that of its layer."""
        try:
            layer, node = self._node(found)
        except (FileNotFoundError, StoreDamaged):  # its layer was withdrawn
            return
        name = content_name(node)
        if not self._is_good(found.path, name):
            return
        with self._open(layer) as root, self._open(found.path) as fd:
            if is_stamped(os.fstat(fd), name[:64].decode()):  # repaired through another name
                return
            stamp_at(fd, Digest(name[:64].decode()), os.fstat(root).st_mtime_ns)
        yield f"restored the time of {quoted(found.path)}"

    def _content(self, found: Finding) -> Iterator[str]:
        """Quarantine a damaged object, and replace it with an intact copy if there is one."""
        name, paths = self._objects_of(found)
        fd = self._storage.fd
        for path in paths:
            if self._is_good(path, name):
                continue
            aside = b"quarantine/" + os.path.basename(temporary_path("object")) + b"-" + name
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, aside, src_dir_fd=fd, dst_dir_fd=fd)
                yield f"moved the damaged {quoted(path)} to {quoted(aside)}"
        if not self._is_good(content_path(name), name):
            yield from self._restore_object(name, found.trees)

    def _objects_of(self, found: Finding) -> tuple[bytes, list[bytes]]:
        """Return the name of a damaged content, and the paths of its possible objects."""
        if found.path.startswith(b"objects/"):
            return self._name(found), [found.path]
        name = content_name(self._node(found)[1])
        path = content_path(name)
        with shortened_path(found.path, self._storage.fd) as (inside, directory):
            owner = os.stat(inside, dir_fd=directory, follow_symlinks=False).st_uid
        return name, [path, user_object_path(path, owner)]

    def _name(self, found: Finding) -> bytes:
        return content_of_object(found.path.removeprefix(b"objects/")) or b""

    def _object(self, found: Finding) -> Iterator[str]:
        yield from self._restore_object(self._name(found), found.trees)

    def _restore_object(self, name: bytes, trees: Iterable[Digest]) -> Iterator[str]:
        """Link an object to an intact file of a layer."""
        fd, path = self._storage.fd, content_path(name)
        for tree in trees:
            with contextlib.suppress(OSError, StoreDamaged):
                for inside, node in self._storage.layers.manifest(tree).nodes.items():
                    source = layer_path(tree) + b"/" + inside
                    if content_name(node) == name and self._is_good(source, name):
                        with shortened_path(source, fd) as (found, directory):
                            os.link(found, path, src_dir_fd=directory, dst_dir_fd=fd)
                        yield f"restored {quoted(path)} from {quoted(source)}"
                        return

    def _is_good(self, path: bytes, name: bytes) -> bool:
        try:
            with self._open(path) as fd:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return False
                return hash_file(fd)[0].encode() == name[:64]
        except OSError:
            return False

    def _layer(self, tree: Digest) -> Iterator[str]:
        """Make a layer again from its manifest and the contents, or take it out of service."""
        storage, path = self._storage, layer_path(tree)
        if tree in self._removal.used_trees():
            yield f"left {quoted(path)}, which is in use: repair it when that has ended"
            return
        try:
            manifest = self._manifest(tree)
            with scratch(storage.fd, "repair") as work:
                storage.layers.build(manifest, work)
                with storage.index.locked(exclusive=True):
                    storage.layers.replace(tree, work)
        except (StoreDamaged, FileNotFoundError, ConcurrentChange):
            yield from self._withdraw(tree)
        else:
            yield f"made {quoted(path)} again"

    def _manifest(self, tree: Digest) -> Manifest:
        """Read a manifest, or make it from the layer. Raises StoreDamaged, FileNotFoundError."""
        with contextlib.suppress(StoreDamaged, FileNotFoundError):
            return self._storage.layers.manifest(tree)
        with self._open(layer_path(tree)) as fd:
            nodes = {found.path: node_of(found) or b"" for found in walk(fd)}
        manifest = Manifest(dict(sorted(nodes.items())))
        return verified_manifest(manifest.encode(), tree)

    def _withdraw(self, tree: Digest) -> Iterator[str]:
        """Forget all artifacts that are a tree, so that the next build makes them again."""
        removed = self._removal.remove(
            lambda writer: writer.of_tree(tree),
            EventKind.LOST,
            lambda artifact: "it could not be healed",
        )
        for artifact in removed.artifacts:
            yield f"took {artifact.signature} out of service"
        merged = [layer for layer in self._storage.compositions.iter_merged() if layer.tree == tree]
        self._removal.discard([tree], merged)
        for _ in merged:
            yield f"forgot the merged layer {tree}"

    def _record(self, name: str) -> str:
        """Make a record again from the artifact's link and manifest, or forget it."""
        storage, done = self._storage, f"forgot the record of {name}"
        with storage.index.write() as writer:
            writer.forget(name)
            with contextlib.suppress(StoreDamaged, BadSignature, FileNotFoundError):
                writer.put(artifact_of(storage.layers, Signature.parse(name), storage.fd))
                done = f"made the record of {name} again"
        return done

    def _link(self, found: Finding) -> Iterator[str]:
        """Make the link of an artifact as its record says."""
        (name,) = found.signatures
        signature, storage = Signature.parse(name), self._storage
        with scratch(storage.fd, "repair") as work, storage.index.write() as writer:
            artifact = writer.get(signature)
            artifact_links.remove_link(storage.fd, signature)
            if artifact is not None:
                artifact_links.make_link(storage.fd, artifact, work)
        yield f"{'removed' if artifact is None else 'made'} the link of {name}"

    def _node(self, found: Finding) -> tuple[bytes, bytes]:
        """Return the layer of a path, and the node of the path in its manifest."""
        _, tree, inside = found.path.split(b"/", 2)
        layer = Digest(tree.decode())
        return layer_path(layer), self._storage.layers.manifest(layer).nodes[inside]

    @contextlib.contextmanager
    def _open(self, path: bytes) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with shortened_path(path, self._storage.fd) as (name, directory):
            fd = os.open(name, flags, dir_fd=directory)
        try:
            yield fd
        finally:
            os.close(fd)
