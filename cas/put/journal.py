"""What a put has begun, so that it can be taken back.

It is in memory that the processes of a put share; each notes a step before it does it, and so
nothing is lost when one of them is killed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple, Self

from cas.content.digest import hash_file
from cas.content.objects import ObjectKey, Objects
from cas.disk.scratch import unnamed_file
from cas.model.manifest import Digest
from cas.system.closeable import Closeable
from cas.system.directories import DirCursor
from cas.system.paths import temporary_name


class FileState(NamedTuple):
    """What a file was before it became an object: permissions, and times (ns since 1970)."""

    mode: int
    accessed_ns: int
    written_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Self:
        """Return what a file is now."""
        return cls(stat.S_IMODE(found.st_mode), found.st_atime_ns, found.st_mtime_ns)

    def restore(self, fd: int) -> None:
        """Make an open file that again. Raises OSError."""
        os.fchmod(fd, self.mode)
        os.utime(fd, ns=(self.accessed_ns, self.written_ns))


class JournalEntry(NamedTuple):
    """A content, from the file at `path` of a tree, that is about to become an object.

    `before` is what the file was, if it may become the object itself.
    """

    path: bytes
    key: ObjectKey
    before: FileState | None


class Journal(Closeable):
    """Notes what was begun with the files of one tree. To be closed."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("cas-put", os.MFD_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_APPEND)

    def close(self) -> None:
        """Give back what it takes."""
        os.close(self._fd)

    def forget(self) -> None:
        """Let nothing be taken back any more. Raises OSError."""
        os.ftruncate(self._fd, 0)

    def note(self, begun: JournalEntry) -> None:
        """Note what is about to be done. Raises OSError."""
        path, key, before = begun
        fields = (path.hex(), key.digest, int(key.executable), *(before or ()))
        # A line that a kill has cut does not spoil the next one, which begins on a line of its own.
        os.write(self._fd, f"\n{' '.join(map(str, fields))} .\n".encode())

    def undo(self, root_fd: int, objects: Objects) -> None:
        """Take back what was done, with files of the tree open at `root_fd` too. Raises OSError."""
        with DirCursor(root_fd) as cursor:
            for path, key, before in sorted(self._begun(), key=lambda begun: begun.path):
                if before is None:
                    objects.remove_unused(key, os.geteuid())
                else:
                    parent, _, name = path.rpartition(b"/")
                    _give_back(objects, key, before, name, cursor.at(parent))

    def _begun(self) -> Iterator[JournalEntry]:
        size = os.fstat(self._fd).st_size
        for line in os.pread(self._fd, size, 0).splitlines():
            if line.endswith(b" ."):
                path, digest, executable, *numbers = line.decode().split()[:-1]
                key = ObjectKey(Digest(digest), executable == "1")
                before = FileState(*map(int, numbers)) if numbers else None
                yield JournalEntry(bytes.fromhex(path), key, before)


def _give_back(
    objects: Objects, key: ObjectKey, before: FileState, name: bytes, dir_fd: int
) -> None:
    """Take back what may have been done with a file, `name` in `dir_fd`.

    A file that became an object gets its mode and time back; or a copy takes its place, should
    another process have linked the object meanwhile, or a layer that was recorded already.
    """
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        now = os.fstat(fd)
        is_object = objects.is_object(key, now)
        objects.remove_unused(key, os.geteuid(), links=2 if is_object else 1)
        if stat.S_IMODE(now.st_mode) != key.mode or FileState.of(now) == before:
            return  # it did not come to that
        if not is_object or os.fstat(fd).st_nlink == 1:
            before.restore(fd)
            return
        with unnamed_file(objects.store_fd) as new:
            hash_file(fd, copy_to=new)
            before.restore(new)
            beside = temporary_name(name)
            source = f"/proc/self/fd/{new}"
            os.link(source, beside, dst_dir_fd=dir_fd, follow_symlinks=True)
            os.rename(beside, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    finally:
        os.close(fd)
