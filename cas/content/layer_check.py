"""Compares a layer with its manifest, without reading contents."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cas.content.census import Census, ContentFile, content_name, content_path
from cas.content.findings import FaultKind
from cas.content.stamp import is_stamped
from cas.disk.layout import content_of_object
from cas.model.manifest import DIRECTORY, Manifest, symlink_node
from cas.system.directories import Node, iter_directories, stat_of
from cas.system.text import quoted


class Fault(NamedTuple):
    """A fault at `path` of a layer; `what` describes it, as text after the path."""

    kind: FaultKind
    path: bytes
    what: str

    def __str__(self) -> str:
        return f"{quoted(self.path)} {self.what}"


class LayerCheck:
    """Compares layers with their manifests, without reading contents.

    `census` collects the files found. `objects` maps inode numbers to paths below `objects/`. A
    file that was written to has lost its stamp. Without stamps (`stamped` is false) it is newer
    than the root of its layer, which is touched when the layer is complete. Directories must have
    the permissions `directory_mode`.
    """

    def __init__(self, objects: Mapping[int, bytes], directory_mode: int, *, stamped: bool) -> None:
        self.census = Census()
        self._objects = objects
        self._directory_mode = directory_mode
        self._stamped = stamped
        self._right: dict[int, bytes] = {}  # nodes of checked files with several links, by inode

    def compare(self, layer_fd: int, manifest: Manifest, base: bytes) -> Iterator[Fault]:
        """Yield the faults of the layer open at `layer_fd` (borrowed).

        `base` is the prefix of its paths in the census. Raises OSError, TooDeep.
        """
        built_ns = os.fstat(layer_fd).st_mtime_ns
        right, links = self._right, self.census.links
        missing = dict(manifest.nodes)
        for prefix, fd, entries in iter_directories(layer_fd):
            for entry in entries:
                name = os.fsencode(entry.name)
                path = prefix + name
                wanted = missing.pop(path, None)
                inode = entry.inode()
                if wanted is None:
                    yield Fault(FaultKind.ENTRY, path, "does not belong there")
                elif wanted == right.get(inode):  # this file was checked under another name
                    links[inode] += 1
                else:
                    node = Node(path, name, fd, stat_of(entry, fd))
                    if stat.S_ISREG(node.stat.st_mode) and wanted[:1] in (b"f", b"x"):
                        yield from self._file(node, wanted, built_ns, base)
                    else:
                        yield from self._other(node, wanted)
        for path in missing:
            yield Fault(FaultKind.ENTRY, path, "is missing")

    def _file(self, found: Node, node: bytes, built_ns: int, base: bytes) -> Sequence[Fault]:
        has, name = found.stat, content_name(node)
        size, mode = int(node[2:-65]), 0o555 if node.startswith(b"x") else 0o444
        written = not is_stamped(has, name[:64]) if self._stamped else has.st_mtime_ns > built_ns
        right = has.st_size == size and stat.S_IMODE(has.st_mode) == mode and not written
        self._note(has, name, base + found.path)
        if right:
            if has.st_nlink > 2 and self._stamped:
                self._right[has.st_ino] = node
            return ()
        faults = []
        if has.st_size != size:
            what = f"has {has.st_size} bytes, not {size}"
            faults.append(Fault(FaultKind.CONTENT, found.path, what))
        elif written:
            what = "was modified after it was stored"
            faults.append(Fault(FaultKind.WRITTEN, found.path, what))
        if stat.S_IMODE(has.st_mode) != mode:
            faults.append(_mode(found, mode))
        return faults

    def _note(self, has: os.stat_result, name: bytes, path: bytes) -> None:
        inode, census = has.st_ino, self.census
        census.sizes[inode] = has.st_size
        place = self._objects.get(inode, b"")
        if b"objects/" + place != content_path(name) and content_of_object(place) != name:
            census.unnamed[inode, name] = ContentFile(name, path, has.st_size)
        if has.st_nlink != 2:
            census.links[inode] += 1
            census.link_counts[inode] = has.st_nlink

    def _other(self, found: Node, wanted: bytes) -> Sequence[Fault]:
        mode = found.stat.st_mode
        if _node(found) != wanted:
            return [Fault(FaultKind.ENTRY, found.path, "differs from the stored entry")]
        if stat.S_ISDIR(mode) and stat.S_IMODE(mode) != self._directory_mode:
            return [_mode(found, self._directory_mode)]
        return ()


def _mode(found: Node, mode: int) -> Fault:
    has = stat.S_IMODE(found.stat.st_mode)
    return Fault(FaultKind.MODE, found.path, f"has mode {has:04o}, not {mode:04o}")


def _node(found: Node) -> bytes | None:
    """Return the manifest's node of a directory or symbolic link."""
    if stat.S_ISDIR(found.stat.st_mode):
        return DIRECTORY
    if stat.S_ISLNK(found.stat.st_mode):
        return symlink_node(os.readlink(found.name, dir_fd=found.dir_fd))
    return None
