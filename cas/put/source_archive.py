"""Reading a tree from a tar archive: its contents become objects without being unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable

from cas.content.objects import Objects
from cas.model.manifest import DIRECTORY, file_node, symlink_node
from cas.put.ingest import ingest_stream
from cas.put.journal import Journal
from cas.put.source_tree import UNREMARKABLE, Place, ScanResult, overlay_mark
from cas.put.tar_reader import ENCODING, ERRORS, ArchiveRefused, MemberStream, members
from cas.system.paths import parents
from cas.system.progress import Progress
from cas.system.text import quoted

_DEVICES = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
}
_ATTRIBUTES = ("SCHILY.xattr.", "LIBARCHIVE.xattr.", "SCHILY.acl.")
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes
_DEEPEST = 256
"""How many directories may be in each other: whoever looks at a layer has as many files open."""
_LARGE = 1 << 30  # bytes; a sparse file may be as large as it says, and take no room in an archive
_HINT = "a tree consists of directories, regular files, and links; leave the rest out"


def read_archive(
    path: bytes, place: Place, progress: Progress, objects: Objects, journal: Journal
) -> ScanResult:
    """Read the tree in the archive at `path`, as tar(1) would make it; make objects of its files.

    `progress` gets members, of nobody knows how many. The caller undoes what is in the journal when
    this raises: ArchiveRefused (which names the member), NoZstd, InputRefused, OSError.
    """
    objects.note_boot()
    unpacking = _TarTree(path, place, objects, journal)
    size = 0
    for number, (member, content) in enumerate(members(path), 1):
        unpacking.add(member, content)
        size += member.size
        progress.update(number, 0, size)
    return unpacking.reading()


class _TarTree:
    """What the members of an archive make together."""

    def __init__(self, archive: bytes, place: Place, objects: Objects, journal: Journal) -> None:
        self._archive = archive
        self._place = place
        self._objects = objects
        self._journal = journal
        self._reading = ScanResult()

    def reading(self) -> ScanResult:
        """Return what is known of the tree when all members were added."""
        self._reading.recount()
        return self._reading

    def add(self, member: tarfile.TarInfo, content: MemberStream | None) -> None:
        """Add a member. Raises ArchiveRefused, OSError."""
        path = self._path(member, member.name)
        if path is None:
            raise self._refused(member, "beside the tree")
        self._note(member)
        if path == b"":
            if not member.isdir():
                raise self._refused(member, "no directory, where the tree should be")
            return
        nodes = self._reading.nodes
        self._make_parents(member, path)
        node = self._node(member, content, path)
        if path in nodes and (nodes[path] == DIRECTORY) != (node == DIRECTORY):
            raise self._refused(member, "in the archive twice, once as a directory")
        nodes[path] = node

    def _path(self, member: tarfile.TarInfo, name: str) -> bytes | None:
        """Return where in the tree a name of an archive is."""
        text = name.encode(ENCODING, ERRORS)
        if text.startswith(b"/"):
            raise self._refused(member, f"no path in a tree: {quoted(name)} is absolute")
        if len(text) > _LONGEST_PATH or text.count(b"/") > _DEEPEST or b"\0" in text:
            raise self._refused(member, "no path that a file system takes")
        names = [part for part in text.split(b"/") if part not in (b"", b".")]
        if b".." in names:
            raise self._refused(member, f"no path in a tree: {quoted(name)} has `..` in it")
        if max(map(len, names), default=0) > _LONGEST_NAME:
            raise self._refused(member, "no path that a file system takes")
        return self._place(b"/".join(names))

    def _make_parents(self, member: tarfile.TarInfo, path: bytes) -> None:
        for parent in parents(path):
            if self._reading.nodes.setdefault(parent, DIRECTORY) != DIRECTORY:
                raise self._refused(member, f"below {quoted(parent)}, which is no directory")

    def _node(self, member: tarfile.TarInfo, content: MemberStream | None, path: bytes) -> bytes:
        if member.isdir():
            return DIRECTORY
        if member.issym():
            target = member.linkname.encode(ENCODING, ERRORS)
            if not 0 < len(target) <= _LONGEST_PATH or b"\0" in target:
                raise self._refused(member, "a symbolic link that a file system does not take")
            return symlink_node(target)
        if member.islnk():
            linked = self._path(member, member.linkname)
            node = self._reading.nodes.get(linked or b"", DIRECTORY)
            if node == DIRECTORY:
                raise self._refused(
                    member, f"a hard link to {quoted(member.linkname)}, no file before it"
                )
            return node
        if content is None:
            what = _DEVICES.get(member.type, f"of an unknown type ({member.type!r})")
            raise self._refused(member, what)
        return self._file(member, content, path)

    def _file(self, member: tarfile.TarInfo, content: MemberStream, path: bytes) -> bytes:
        end = 0
        parts: Iterable[tuple[int, int]] = getattr(member, "sparse", None) or ()
        for offset, size in parts:
            if size == 0:  # as at the end, and to fill a header
                continue
            if offset < end or size < 0:
                raise self._refused(member, "a sparse file whose parts are out of order")
            end = offset + size
        if end > member.size:
            raise self._refused(member, "a sparse file that is longer than it says")
        if member.size > _LARGE and member.size > self._objects.free_space():
            raise self._refused(member, f"{member.size} bytes, more than there is room for")
        key, size, new = ingest_stream(
            self._objects,
            content.read,
            path,
            self._journal,
            executable=bool(member.mode & 0o111),
        )
        if size != member.size:
            raise self._refused(member, "longer than the archive")
        self._reading.count_new(member.size, new)
        return file_node(key.digest, member.size, executable=key.executable)

    def _note(self, member: tarfile.TarInfo) -> None:
        """Count what of a member is not kept."""
        names = {
            key.removeprefix(prefix)
            for key in member.pax_headers
            for prefix in _ATTRIBUTES
            if key.startswith(prefix)
        }
        if what := overlay_mark(names):
            raise self._refused(member, what)
        self._reading.xattrs += bool(names - UNREMARKABLE)
        self._reading.set_id_bits += bool(member.mode & 0o6000)
        self._reading.owners += member.uid != os.geteuid()

    def _refused(self, member: tarfile.TarInfo, what: str) -> ArchiveRefused:
        name = quoted(member.name[:_LONGEST_NAME])
        return ArchiveRefused(self._archive, f"holds {name}, which is {what}", _HINT)
