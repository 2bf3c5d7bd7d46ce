"""Reading a tree from a tar archive: its contents become objects without being unpacked."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable

from cas.archives import ENCODING, ERRORS, ArchiveRefused, Content, members
from cas.ingest import ingest_stream
from cas.journal import Journal
from cas.manifest import DIRECTORY, Entry, file_node, symlink_node
from cas.objects import Objects
from cas.quoting import quoted
from cas.tree import UNREMARKABLE, Reading

_DEVICES = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
}
_ATTRIBUTES = ("SCHILY.xattr.", "LIBARCHIVE.xattr.")
_LONGEST_NAME, _LONGEST_TARGET = 255, 4095  # bytes

Place = Callable[[bytes], bytes | None]
"""Where in the tree a path of an archive is: b"" at its root, None nowhere."""


def read_archive(path: bytes, place: Place, objects: Objects, journal: Journal) -> Reading:
    """Read the tree in the archive at `path`, as tar(1) would make it; make objects of its files.

    The caller undoes what is in the journal when this raises: ArchiveRefused (which names the
    member), NoZstd, InputRefused, OSError.
    """
    objects.note_boot()
    unpacking = _Unpacking(path, place, objects, journal)
    for member, content in members(path):
        unpacking.add(member, content)
    return unpacking.reading()


class _Unpacking:
    """What the members of an archive make together."""

    def __init__(self, archive: bytes, place: Place, objects: Objects, journal: Journal) -> None:
        self._archive = archive
        self._place = place
        self._objects = objects
        self._journal = journal
        self._reading = Reading()

    def reading(self) -> Reading:
        """Return what is known of the tree when all members were added."""
        entries = [Entry.of(path, node) for path, node in self._reading.nodes.items()]
        self._reading.kinds = Counter(entry.kind for entry in entries)
        self._reading.size = sum(entry.size for entry in entries)
        return self._reading

    def add(self, member: tarfile.TarInfo, content: Content | None) -> None:
        """Add a member. Raises ArchiveRefused, OSError."""
        path = self._path(member, member.name)
        if path is None:
            raise self._refused(member, "beside the tree")
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
        self._note(member)

    def _path(self, member: tarfile.TarInfo, name: str) -> bytes | None:
        """Return where in the tree a name of an archive is."""
        text = name.encode(ENCODING, ERRORS)
        if text.startswith(b"/"):
            raise self._refused(member, "at or a link to an absolute path")
        names = [part for part in text.split(b"/") if part not in (b"", b".")]
        if b".." in names:
            raise self._refused(member, "at or a link to a path with `..`")
        if b"\0" in text or max(map(len, names), default=0) > _LONGEST_NAME:
            raise self._refused(member, "no path that a file system takes")
        return self._place(b"/".join(names))

    def _make_parents(self, member: tarfile.TarInfo, path: bytes) -> None:
        nodes = self._reading.nodes
        end = path.find(b"/")
        while end >= 0:
            if nodes.setdefault(path[:end], DIRECTORY) != DIRECTORY:
                raise self._refused(member, f"below {quoted(path[:end])}, which is no directory")
            end = path.find(b"/", end + 1)

    def _node(self, member: tarfile.TarInfo, content: Content | None, path: bytes) -> bytes:
        if member.isdir():
            return DIRECTORY
        if member.issym():
            target = member.linkname.encode(ENCODING, ERRORS)
            if not 0 < len(target) <= _LONGEST_TARGET or b"\0" in target:
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

    def _file(self, member: tarfile.TarInfo, content: Content, path: bytes) -> bytes:
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
        key, size, new = ingest_stream(
            self._objects,
            content.read,
            path,
            self._journal,
            executable=bool(member.mode & 0o111),
        )
        if size != member.size:
            raise self._refused(member, "longer than the archive")
        self._reading.new += new
        self._reading.new_bytes += new * member.size
        return file_node(key.digest, member.size, executable=key.executable)

    def _note(self, member: tarfile.TarInfo) -> None:
        """Count what of a member is not kept."""
        names = {
            key.removeprefix(prefix)
            for key in member.pax_headers
            for prefix in _ATTRIBUTES
            if key.startswith(prefix)
        }
        for name in names:
            if ".overlay." in name:
                what = f"part of an overlayfs upper directory (it has the attribute {name})"
                raise self._refused(member, what)
        self._reading.xattrs += bool(names - UNREMARKABLE)
        self._reading.set_id_bits += bool(member.mode & 0o6000)
        self._reading.owners += member.uid != os.geteuid()

    def _refused(self, member: tarfile.TarInfo, what: str) -> ArchiveRefused:
        return ArchiveRefused(self._archive, f"holds {quoted(member.name)}, which is {what}")
