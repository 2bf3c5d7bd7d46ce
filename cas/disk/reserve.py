"""Space kept aside, so that a full disk can be cleared: to remove something takes space too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cas.disk.group_sharing import share_new

_NAME = b"reserve"
_SIZE = 1 << 20
_LOW = 8 * _SIZE


def keep_reserve(store_fd: int) -> None:
    """Take the reserve of the store open at `store_fd` from the disk, as far as there is space."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        fd = os.open(_NAME, flags, 0o644, dir_fd=store_fd)
        try:
            share_new(fd, store_fd)
            os.posix_fallocate(fd, 0, _SIZE)
        finally:
            os.close(fd)


@contextlib.contextmanager
def spare_space(store_fd: int) -> Iterator[None]:
    """Give the reserve back to the disk for a `with` block that will free space, if it is full."""
    disk = os.fstatvfs(store_fd)
    low = disk.f_bavail * disk.f_frsize < _LOW
    if low:
        with contextlib.suppress(OSError):
            os.truncate(b"/proc/self/fd/%d/" % store_fd + _NAME, 0)
    try:
        yield
    finally:
        if low:
            keep_reserve(store_fd)
