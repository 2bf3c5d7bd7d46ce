"""Copies a file, sharing its blocks where the file system can."""

from __future__ import annotations

import errno
import os

# O_NONBLOCK: a FIFO in a file's place must not block the open.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_RANGE_UNSUPPORTED = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""Errors of copy_file_range(2) that mean: use another call."""


def copy_file(name: bytes, source_fd: int, target_fd: int) -> None:
    """Copy the file `name` from one open directory to another. Raises OSError.

    The copy is read-only and keeps the modification time.
    """
    source = os.open(name, _READ_FLAGS, dir_fd=source_fd)
    try:
        state = os.fstat(source)
        target = os.open(name, _CREATE_FLAGS, 0o600, dir_fd=target_fd)
        try:
            _transfer(source, target, state.st_size)
            os.fchmod(target, state.st_mode & 0o555)
            os.utime(target, ns=(state.st_mtime_ns, state.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        os.close(source)


def _transfer(source: int, target: int, size: int) -> None:
    transfer = _copy_range
    done = 0
    while done < size:
        try:
            count = transfer(source, target, size - done, done)
        except OSError as error:
            if transfer is _send or error.errno not in _RANGE_UNSUPPORTED:
                raise
            transfer = _send
            continue
        if count == 0:
            raise OSError(errno.EIO, "a file in the store was truncated while it was copied")
        done += count


def _copy_range(source: int, target: int, count: int, offset: int) -> int:
    return os.copy_file_range(source, target, count, offset, offset)


def _send(source: int, target: int, count: int, offset: int) -> int:
    return os.sendfile(target, source, offset, count)
