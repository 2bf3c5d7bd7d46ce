"""Reads a tree from a tar archive: contents become objects without an extracted copy."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterable

from cas.content.objects import Objects
from cas.model.manifest import DIRECTORY, file_node, symlink_node
from cas.put.ingest import ingest_stream
from cas.put.journal import Journal
from cas.put.scan_result import UNREMARKABLE_XATTRS, Place, ScanResult, overlay_mark
from cas.put.tar_reader import ENCODING, ERRORS, ArchiveRefused, MemberStream, members
from cas.system.paths import parents
from cas.system.progress import Progress
from cas.system.text import quoted

_DEVICES = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
}
_XATTR_PREFIXES = ("SCHILY.xattr.", "LIBARCHIVE.xattr.", "SCHILY.acl.")
_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 4095
_MAX_DEPTH = 256
"""Reading a layer takes one open file for each level of directories."""
_MIN_BYTES_TO_CHECK_SPACE = 1 << 30
"""Above this size, free space is checked: a sparse file of any size is small in the archive."""
_ENTRY_HINT = "remove it: a tree has only directories, regular files and links"


def read_archive(
    path: bytes, place: Place, progress: Progress, objects: Objects, journal: Journal
) -> ScanResult:
    """Read the tree in the archive at `path` as tar(1) would extract it; store files as objects.

    `progress` counts members. If this raises, the caller undoes the journal. Raises ArchiveRefused
    (with the member), NoZstd, InputRefused, OSError.
    """
    objects.note_boot()
    tree = _TarTree(path, place, objects, journal)
    size = 0
    for number, (member, content) in enumerate(members(path), 1):
        tree.add(member, content)
        size += member.size
        progress.update(number, 0, size)
    return tree.result()


class _TarTree:
    """The tree that the members of an archive make together."""

    def __init__(self, archive: bytes, place: Place, objects: Objects, journal: Journal) -> None:
        self._archive = archive
        self._place = place
        self._objects = objects
        self._journal = journal
        self._scan = ScanResult()

    def result(self) -> ScanResult:
        """Return the result after all members were added."""
        self._scan.recount()
        return self._scan

    def add(self, member: tarfile.TarInfo, content: MemberStream | None) -> None:
        """Add a member. Raises ArchiveRefused, OSError."""
        path = self._path(member, member.name)
        if path is None:
            raise self._refused(member, "outside of the tree")
        self._note(member)
        if path == b"":
            if not member.isdir():
                raise self._refused(member, "the root of the tree, but not a directory")
            return
        nodes = self._scan.nodes
        self._make_parents(member, path)
        node = self._node(member, content, path)
        if path in nodes and (nodes[path] == DIRECTORY) != (node == DIRECTORY):
            raise self._refused(member, "in the archive twice, and a directory only once")
        nodes[path] = node

    def _path(self, member: tarfile.TarInfo, name: str) -> bytes | None:
        """Return the path in the tree for a name in the archive, or None."""
        text = name.encode(ENCODING, ERRORS)
        if text.startswith(b"/"):
            raise self._refused(member, f"not in the tree: {quoted(name)} is absolute")
        if len(text) > _MAX_PATH_BYTES or text.count(b"/") > _MAX_DEPTH or b"\0" in text:
            raise self._refused(member, "a path that file systems do not allow")
        names = [part for part in text.split(b"/") if part not in (b"", b".")]
        if b".." in names:
            raise self._refused(member, f"not in the tree: {quoted(name)} contains `..`")
        if max(map(len, names), default=0) > _MAX_NAME_BYTES:
            raise self._refused(member, "a path that file systems do not allow")
        return self._place(b"/".join(names))

    def _make_parents(self, member: tarfile.TarInfo, path: bytes) -> None:
        for parent in parents(path):
            if self._scan.nodes.setdefault(parent, DIRECTORY) != DIRECTORY:
                raise self._refused(member, f"below {quoted(parent)}, which is not a directory")

    def _node(self, member: tarfile.TarInfo, content: MemberStream | None, path: bytes) -> bytes:
        if member.isdir():
            return DIRECTORY
        if member.issym():
            target = member.linkname.encode(ENCODING, ERRORS)
            if not 0 < len(target) <= _MAX_PATH_BYTES or b"\0" in target:
                raise self._refused(member, "a symbolic link that file systems do not allow")
            return symlink_node(target)
        if member.islnk():
            linked = self._path(member, member.linkname)
            node = self._scan.nodes.get(linked or b"", DIRECTORY)
            if node == DIRECTORY:
                raise self._refused(
                    member,
                    f"a hard link to {quoted(member.linkname)}, which is not an earlier file",
                )
            return node
        if content is None:
            kind = _DEVICES.get(member.type, f"of an unknown type ({member.type!r})")
            raise self._refused(member, kind)
        return self._file(member, content, path)

    def _file(self, member: tarfile.TarInfo, content: MemberStream, path: bytes) -> bytes:
        end = 0
        parts: Iterable[tuple[int, int]] = getattr(member, "sparse", None) or ()
        for offset, size in parts:
            if size == 0:  # the end, or padding of a header
                continue
            if offset < end or size < 0:
                raise self._refused(member, "a sparse file whose parts are out of order")
            end = offset + size
        if end > member.size:
            raise self._refused(member, "a sparse file with parts beyond its end")
        if member.size > _MIN_BYTES_TO_CHECK_SPACE and member.size > self._objects.free_space():
            raise self._refused(member, f"{member.size} bytes large, more than the free disk space")
        key, size, new = ingest_stream(
            self._objects,
            content.read,
            path,
            self._journal,
            executable=bool(member.mode & 0o111),
        )
        if size != member.size:
            raise self._refused(member, "longer than the archive")
        self._scan.count_new(member.size, new)
        return file_node(key.digest, member.size, executable=key.executable)

    def _note(self, member: tarfile.TarInfo) -> None:
        """Count the properties of a member that the store does not keep."""
        names = {
            key.removeprefix(prefix)
            for key in member.pax_headers
            for prefix in _XATTR_PREFIXES
            if key.startswith(prefix)
        }
        if mark := overlay_mark(names):
            raise self._refused(member, mark)
        self._scan.xattrs += bool(names - UNREMARKABLE_XATTRS)
        self._scan.set_id_bits += bool(member.mode & (stat.S_ISUID | stat.S_ISGID))
        self._scan.owners += member.uid != os.geteuid()

    def _refused(self, member: tarfile.TarInfo, problem: str) -> ArchiveRefused:
        name = quoted(member.name[:_MAX_NAME_BYTES])
        return ArchiveRefused(self._archive, f"contains {name}, which is {problem}", _ENTRY_HINT)
