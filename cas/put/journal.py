"""The journal of a put, from which a failed put is undone.

It lies in memory that the processes of a put share. Each notes a step before it takes it, so the
step can be undone even if the process is killed.
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
    """The permissions and times (ns since 1970) of a file before it became an object."""

    mode: int
    accessed_ns: int
    written_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the state in a stat result."""
        return cls(stat.S_IMODE(status.st_mode), status.st_atime_ns, status.st_mtime_ns)

    def restore(self, fd: int) -> None:
        """Restore the state of an open file. Raises OSError."""
        os.fchmod(fd, self.mode)
        os.utime(fd, ns=(self.accessed_ns, self.written_ns))


class JournalEntry(NamedTuple):
    """The content of the file at `path` of a tree is about to become the object `key`.

    `before` is the state of the file if the file itself may become the object, else None.
    """

    path: bytes
    key: ObjectKey
    before: FileState | None


class Journal(Closeable):
    """Notes the steps taken with the files of one tree. Must be closed."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("cas-put", os.MFD_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_APPEND)

    def close(self) -> None:
        """Release the memory."""
        os.close(self._fd)

    def forget(self) -> None:
        """Drop all entries, so that nothing is undone. Raises OSError."""
        os.ftruncate(self._fd, 0)

    def note(self, entry: JournalEntry) -> None:
        """Note a step before it is taken. Raises OSError."""
        path, key, before = entry
        fields = (path.hex(), key.digest, int(key.executable), *(before or ()))
        # Each entry begins on a new line, so a line that a kill truncated does not spoil the next.
        os.write(self._fd, f"\n{' '.join(map(str, fields))} .\n".encode())

    def undo(self, root_fd: int, objects: Objects) -> None:
        """Undo all noted steps; the root of the tree is open at `root_fd`. Raises OSError."""
        with DirCursor(root_fd) as cursor:
            for path, key, before in sorted(self._entries(), key=lambda entry: entry.path):
                if before is None:
                    objects.remove_unused(key, os.geteuid())
                else:
                    parent, _, name = path.rpartition(b"/")
                    _undo_move(objects, key, before, name, cursor.at(parent))

    def _entries(self) -> Iterator[JournalEntry]:
        size = os.fstat(self._fd).st_size
        for line in os.pread(self._fd, size, 0).splitlines():
            if line.endswith(b" ."):
                path, digest, executable, *numbers = line.decode().split()[:-1]
                key = ObjectKey(Digest(digest), executable == "1")
                before = FileState(*map(int, numbers)) if numbers else None
                yield JournalEntry(bytes.fromhex(path), key, before)


def _undo_move(
    objects: Objects, key: ObjectKey, before: FileState, name: bytes, dir_fd: int
) -> None:
    """Undo the possible move of a file, `name` in `dir_fd`, into the store.

    A file that became an object gets its mode and times back. If another process has linked the
    object meanwhile, or a recorded layer has, a copy replaces the file instead.
    """
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        now = os.fstat(fd)
        is_object = objects.is_object(key, now)
        objects.remove_unused(key, os.geteuid(), links=2 if is_object else 1)
        if stat.S_IMODE(now.st_mode) != key.mode or FileState.of(now) == before:
            return  # the file was not changed
        if not is_object or os.fstat(fd).st_nlink == 1:
            before.restore(fd)
            return
        with unnamed_file(objects.store_fd) as new:
            hash_file(fd, copy_to=new)
            before.restore(new)
            temporary = temporary_name(name)
            source = f"/proc/self/fd/{new}"
            os.link(source, temporary, dst_dir_fd=dir_fd, follow_symlinks=True)
            os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    finally:
        os.close(fd)
