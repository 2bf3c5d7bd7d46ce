"""Copying one file; the kernel shares the blocks where the file system can."""

from __future__ import annotations

import errno
import os

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A FIFO in the place of a file keeps nobody waiting."""


def copy_file(name: bytes, source_fd: int, target_fd: int) -> None:
    """Copy the file `name` from one open directory to another. Raises OSError.

    It is read-only then, and has its old time.
    """
    old = os.open(name, _READ, dir_fd=source_fd)
    try:
        found = os.fstat(old)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        new = os.open(name, flags, 0o600, dir_fd=target_fd)
        try:
            _transfer(old, new, found.st_size)
            os.fchmod(new, found.st_mode & 0o555)
            os.utime(new, ns=(found.st_mtime_ns, found.st_mtime_ns))
        finally:
            os.close(new)
    finally:
        os.close(old)


def _transfer(old: int, new: int, size: int) -> None:
    transfer = _by_range
    done = 0
    while done < size:
        try:
            count = transfer(old, new, size - done, done)
        except OSError as error:
            unsupported = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
            if transfer is _by_sendfile or error.errno not in unsupported:
                raise
            transfer = _by_sendfile
            continue
        if count == 0:
            raise OSError(errno.EIO, "a file of the store is shorter than it was")
        done += count


def _by_range(old: int, new: int, count: int, offset: int) -> int:
    return os.copy_file_range(old, new, count, offset, offset)


def _by_sendfile(old: int, new: int, count: int, offset: int) -> int:
    return os.sendfile(new, old, offset, count)
