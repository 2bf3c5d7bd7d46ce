"""Compares a layer with its manifest, without reading contents."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from cas.content.census import Census, ContentFile, content_name, content_path
from cas.content.findings import FaultKind, Finding
from cas.content.stamp import is_stamped
from cas.disk.layout import content_of_object
from cas.model.manifest import DIRECTORY, Manifest, symlink_node
from cas.system.directories import Node, iter_directories, stat_of


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
        self._intact: dict[int, bytes] = {}  # nodes of intact files with several links, by inode

    def compare(self, layer_fd: int, manifest: Manifest, base: bytes) -> Iterator[Finding]:
        """Yield the faults of the layer open at `layer_fd` (borrowed).

        `base` is the prefix of its paths in findings and in the census. Raises OSError, TooDeep.
        """
        built_ns = os.fstat(layer_fd).st_mtime_ns
        intact, links = self._intact, self.census.links
        missing = dict(manifest.nodes)
        for prefix, fd, entries in iter_directories(layer_fd):
            for entry in entries:
                name = os.fsencode(entry.name)
                path = prefix + name
                expected = missing.pop(path, None)
                inode = entry.inode()
                if expected is None:
                    yield Finding(FaultKind.ENTRY, base + path, "does not belong there")
                elif expected == intact.get(inode):  # another link to a checked file saves a stat
                    links[inode] += 1
                else:
                    node = Node(base + path, name, fd, stat_of(entry, fd))
                    if stat.S_ISREG(node.stat.st_mode) and expected[:1] in (b"f", b"x"):
                        yield from self._check_file(node, expected, built_ns)
                    else:
                        yield from self._check_other(node, expected)
        for path in missing:
            yield Finding(FaultKind.ENTRY, base + path, "is missing")

    def _check_file(self, file: Node, expected: bytes, built_ns: int) -> Sequence[Finding]:
        status, name = file.stat, content_name(expected)
        size, mode = int(expected[2:-65]), 0o555 if expected.startswith(b"x") else 0o444
        if self._stamped:
            modified = not is_stamped(status, name[:64])
        else:
            modified = status.st_mtime_ns > built_ns
        self._add_to_census(status, name, file.path)
        findings = []
        if status.st_size != size:
            what = f"has {status.st_size} bytes, not {size}"
            findings.append(Finding(FaultKind.CONTENT, file.path, what))
        elif modified:
            what = "was modified after it was stored"
            findings.append(Finding(FaultKind.WRITTEN, file.path, what))
        if stat.S_IMODE(status.st_mode) != mode:
            findings.append(_wrong_mode(file, mode))
        # Without stamps the same file may be newer than the root of one layer, and not of another.
        if not findings and status.st_nlink > 2 and self._stamped:
            self._intact[status.st_ino] = expected
        return findings

    def _add_to_census(self, status: os.stat_result, name: bytes, path: bytes) -> None:
        inode, census = status.st_ino, self.census
        census.sizes[inode] = status.st_size
        place = self._objects.get(inode, b"")
        # A user's own copy, `….UID`, is the same content under another path.
        if b"objects/" + place != content_path(name) and content_of_object(place) != name:
            census.unnamed[inode, name] = ContentFile(name, path, status.st_size)
        if status.st_nlink != 2:
            census.links[inode] += 1
            census.link_counts[inode] = status.st_nlink

    def _check_other(self, entry: Node, expected: bytes) -> Sequence[Finding]:
        mode = entry.stat.st_mode
        if _node(entry) != expected:
            return [Finding(FaultKind.ENTRY, entry.path, "differs from the stored entry")]
        if stat.S_ISDIR(mode) and stat.S_IMODE(mode) != self._directory_mode:
            return [_wrong_mode(entry, self._directory_mode)]
        return ()


def _wrong_mode(entry: Node, expected: int) -> Finding:
    mode = stat.S_IMODE(entry.stat.st_mode)
    return Finding(FaultKind.MODE, entry.path, f"has mode {mode:04o}, not {expected:04o}")


def _node(entry: Node) -> bytes | None:
    """Return the manifest's node of a directory or symbolic link."""
    if stat.S_ISDIR(entry.stat.st_mode):
        return DIRECTORY
    if stat.S_ISLNK(entry.stat.st_mode):
        return symlink_node(os.readlink(entry.name, dir_fd=entry.dir_fd))
    return None
