"""Disk space of single files and directories."""

from __future__ import annotations

import os
import stat


def disk_use(status: os.stat_result) -> int:
    """Return the disk space (bytes) that removing one name of a file or directory frees."""
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        return 0
    return status.st_blocks * 512  # in units of 512 bytes on every file system (stat(2))


def disk_use_at(path: bytes, dir_fd: int | None = None) -> int:
    """Return the `disk_use` of a path without following a link; 0 if it does not exist.

    Raises OSError.
    """
    try:
        return disk_use(os.stat(path, dir_fd=dir_fd, follow_symlinks=False))
    except FileNotFoundError:
        return 0
