"""Making objects of a task's files."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from cas.content.digest import hash_bytes, hash_file, hash_stream, write_all
from cas.content.objects import ObjectKey, Objects
from cas.content.stamp import stamp
from cas.disk.scratch import unnamed_file
from cas.errors import InputRefused
from cas.put.journal import FileState, Journal, JournalEntry
from cas.system.directories import attributes
from cas.system.text import quoted

_WHOLE = 1 << 20  # bytes; files up to this size are read into memory, and only once


class FileChanged(InputRefused):
    """A file was written to while it was read."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"{quoted(path)} changed while it was read; nothing was stored",
            hint="put a tree when the task that makes it has ended",
        )


class Ingested(NamedTuple):
    """A file's content is in the store: as `key`, `size` bytes.

    By this call it took `new` bytes of disk; None if it was there. `before` is what the file was,
    with the extended attributes `names`, and `stat` what it is now.
    """

    key: ObjectKey
    size: int
    new: int | None
    before: os.stat_result
    names: list[str]
    stat: os.stat_result


def ingest(
    objects: Objects, path: bytes, dir_fd: int, root: bytes, journal: Journal, *, move: bool
) -> Ingested:
    """Make sure that the content of a regular file, `path` in the tree at `root`, is an object.

    Its directory is open at `dir_fd`. With `move` the file itself becomes the object if that is
    safe: it keeps its name, but is read-only from then on. The journal gets what has to be taken
    back if the put fails. Raises OSError, FileChanged.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    whole = os.path.join(root, path)
    fd = os.open(os.path.basename(path), flags, dir_fd=dir_fd)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise FileChanged(whole)
        data = _read(fd, before.st_size) if before.st_size <= _WHOLE else None
        if data is None:
            digest, size = hash_file(fd)
        else:
            digest, size = hash_bytes(data), len(data)
        if size != before.st_size:
            raise FileChanged(whole)
        _unchanged(fd, before, whole)
        names = attributes(fd)
        key = ObjectKey(digest, bool(before.st_mode & 0o111))
        if objects.usable(key):
            return Ingested(key, size, None, before, names, before)
        journal.note(JournalEntry(path, key, FileState.of(before) if move else None))
        now = _adopt(objects, fd, before, key, whole) if move and not names else None
        if now is not None:
            return Ingested(key, size, now.st_blocks * 512, before, names, now)
        return Ingested(key, size, _copy(objects, fd, data, key, whole), before, names, before)
    finally:
        os.close(fd)


def ingest_stream(
    objects: Objects,
    read: Callable[[int], bytes],
    path: bytes,
    journal: Journal,
    *,
    executable: bool,
) -> tuple[ObjectKey, int, int | None]:
    """Make sure that all that `read` gives, the file `path` of a tree, is an object.

    Returns its key, its size in bytes, and what it took of the disk, or None if it was there. The
    journal gets what has to be taken back if the put fails. Raises OSError, and what `read` raises.
    """
    with unnamed_file(objects.store_fd) as new:
        digest, size = hash_stream(read, new)
        key = ObjectKey(digest, executable)
        if objects.usable(key):
            return key, size, None
        journal.note(JournalEntry(path, key, None))
        return key, size, _publish(objects, new, key)


def _copy(objects: Objects, fd: int, data: bytes | None, key: ObjectKey, path: bytes) -> int | None:
    with unnamed_file(objects.store_fd) as new:
        if data is not None:
            write_all(new, data)
        elif hash_file(fd, copy_to=new)[0] != key.digest:
            raise FileChanged(path)
        return _publish(objects, new, key)


def _publish(objects: Objects, new: int, key: ObjectKey) -> int | None:
    os.fchmod(new, key.mode)
    stamp(new, key.digest)
    return os.fstat(new).st_blocks * 512 if objects.publish(new, key) else None


def _adopt(
    objects: Objects, fd: int, before: os.stat_result, key: ObjectKey, path: bytes
) -> os.stat_result | None:
    """Make the file open at `fd`, without attributes, the object if nobody can write into it.

    Returns what it is then; None if it is what it was.
    """
    if before.st_nlink != 1 or before.st_uid != os.geteuid():
        return None
    if before.st_dev != os.fstat(objects.store_fd).st_dev:
        return None
    os.fchmod(fd, key.mode)  # before it is asked who writes, lest somebody begins to
    try:
        if _has_writer(fd):
            FileState.of(before).restore(fd)
            return None
        _unchanged(fd, before, path)
        stamp(fd, key.digest)
        now = os.fstat(fd)
        if objects.publish(fd, key):  # nothing can fail after it
            return now
    except BaseException:
        FileState.of(before).restore(fd)
        raise
    FileState.of(before).restore(fd)
    return None


def _read(fd: int, size: int) -> bytes:
    """Read up to one byte more than `size`, which shows a file that has grown."""
    data = os.read(fd, size + 1)
    while len(data) <= size and (more := os.read(fd, size + 1 - len(data))):
        data += more
    return data


def _unchanged(fd: int, before: os.stat_result, path: bytes) -> None:
    now = os.fstat(fd)
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise FileChanged(path)


def _has_writer(fd: int) -> bool:
    """Tell whether anybody has the file open for writing: fcntl(2) refuses a read lease then."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False
