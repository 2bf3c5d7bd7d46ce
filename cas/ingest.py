"""Making objects of a task's files."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from cas import digest as hashing
from cas.dirs import attributes
from cas.errors import InputRefused
from cas.objects import ObjectKey, Objects
from cas.quoting import quoted
from cas.scratch import unnamed_file
from cas.signals import uninterrupted
from cas.stamp import stamp

_WHOLE = 1 << 20  # bytes; files up to this size are read into memory, and only once


class FileChanged(InputRefused):
    """A file was written to while it was read."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"{quoted(path)} changed while it was read; nothing was stored",
            hint="put a tree when the task that makes it has ended",
        )


@dataclass(frozen=True, slots=True)
class Ingested:
    """A file's content is in the store: as `key`, `size` bytes, and by this call if `new`.

    `stat` is of the file when it was read. `adopted` is what it was before that, if the file
    itself became the object.
    """

    key: ObjectKey
    size: int
    new: bool
    stat: os.stat_result
    adopted: os.stat_result | None = None


def ingest(
    objects: Objects,
    name: bytes,
    dir_fd: int,
    path: bytes,
    adopted: Callable[[Ingested], None] | None = None,
) -> Ingested:
    """Make sure that the content of a regular file is an object.

    With `adopted` the file itself becomes the object if that is safe: it keeps its name, but is
    read-only from then on. `adopted` hears of it before a signal can come. `path` is for messages.
    Raises OSError, FileChanged.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=dir_fd)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise FileChanged(path)
        data = _read(fd, before.st_size) if before.st_size <= _WHOLE else None
        if data is None:
            digest, size = hashing.of_file(fd)
        else:
            digest, size = hashing.of_bytes(data), len(data)
        if size != before.st_size:
            raise FileChanged(path)
        _unchanged(fd, before, path)
        key = ObjectKey(digest, bool(before.st_mode & 0o111))
        if objects.usable(key):
            return Ingested(key, size, False, before)
        if adopted is not None:
            with uninterrupted():
                now = _adopt(objects, fd, before, key, path)
                if now is not None:
                    done = Ingested(key, size, True, now, adopted=before)
                    adopted(done)
                    return done
        return Ingested(key, size, _copy(objects, fd, data, key, path), before)
    finally:
        os.close(fd)


def disown(objects: Objects, name: bytes, dir_fd: int, before: os.stat_result) -> None:
    """Give a file that was an object, and no longer is, back to its owner. Raises OSError.

    If somebody linked the object meanwhile, the file is theirs, and a copy takes its place.
    """
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if os.fstat(fd).st_nlink == 1:
            return _restore(fd, before)
        with unnamed_file(objects.store_fd) as new:
            hashing.of_file(fd, copy_to=new)
            _restore(new, before)
            beside = name[:200] + b".cas-" + os.urandom(8).hex().encode()
            source = f"/proc/self/fd/{new}"
            os.link(source, beside, dst_dir_fd=dir_fd, follow_symlinks=True)
            os.rename(beside, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    finally:
        os.close(fd)


def _copy(objects: Objects, fd: int, data: bytes | None, key: ObjectKey, path: bytes) -> bool:
    with unnamed_file(objects.store_fd) as new:
        if data is not None:
            hashing.write_all(new, data)
        elif hashing.of_file(fd, copy_to=new)[0] != key.digest:
            raise FileChanged(path)
        os.fchmod(new, key.mode)
        stamp(new, key.digest)
        return objects.publish(new, key)


def _adopt(
    objects: Objects, fd: int, before: os.stat_result, key: ObjectKey, path: bytes
) -> os.stat_result | None:
    """Make the file open at `fd` the object itself, if nobody else can write into it.

    Returns what it is then; None if it is what it was.
    """
    if before.st_nlink != 1 or before.st_uid != os.geteuid() or attributes(fd):
        return None
    if before.st_dev != os.fstat(objects.store_fd).st_dev:
        return None
    os.fchmod(fd, key.mode)  # before it is asked who writes, lest somebody begins to
    try:
        if _has_writer(fd):
            _restore(fd, before)
            return None
        _unchanged(fd, before, path)
        stamp(fd, key.digest)
        now = os.fstat(fd)
        if objects.publish(fd, key):  # nothing can fail after it
            return now
    except BaseException:
        _restore(fd, before)
        raise
    _restore(fd, before)
    return None


def _restore(fd: int, before: os.stat_result) -> None:
    """Give an open file the mode and the time that it had `before`. Raises OSError."""
    os.fchmod(fd, stat.S_IMODE(before.st_mode))
    os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))


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
