"""Reserved disk space, so that artifacts can be removed from a full disk: removing needs space."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cas.disk.group_sharing import share_with_group
from cas.system.debug_log import debug

_NAME = b"reserve"
_RESERVE_BYTES = 1 << 20
_LOW_SPACE_BYTES = 8 * _RESERVE_BYTES


def fill_reserve(store_fd: int) -> None:
    """Allocate the reserve of the store open at `store_fd`, if there is space."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        fd = os.open(_NAME, flags, 0o644, dir_fd=store_fd)
        try:
            share_with_group(fd, store_fd)
            os.posix_fallocate(fd, 0, _RESERVE_BYTES)
        finally:
            os.close(fd)


@contextlib.contextmanager
def reserve_released(store_fd: int) -> Iterator[None]:
    """Free the reserve during a `with` block that removes files, if the disk is nearly full."""
    disk = os.fstatvfs(store_fd)
    low = disk.f_bavail * disk.f_frsize < _LOW_SPACE_BYTES
    if low:
        with contextlib.suppress(OSError):
            os.truncate(b"/proc/self/fd/%d/" % store_fd + _NAME, 0)
            debug("the disk is nearly full: released the reserve of %d bytes", _RESERVE_BYTES)
    try:
        yield
    finally:
        if low:
            fill_reserve(store_fd)
