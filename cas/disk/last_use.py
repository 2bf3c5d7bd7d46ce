"""Times of last use, kept as modification times of files.

A use does not write to the index, and at most once in `PRECISION_NS` to the file system.
"""

from __future__ import annotations

import contextlib
import os
import time

PRECISION_NS = 60 * 10**9
TICK_NS = 10_000_000
"""The time of a file may lag the clock by one tick (at CONFIG_HZ=100)."""


def note_use(path: bytes, dir_fd: int | None = None) -> None:
    """Set the time of last use of a path, not following a final link, to now.

    Errors are ignored, as of a read-only file system or a missing permission.
    """
    with contextlib.suppress(OSError):
        if not is_recent(os.stat(path, dir_fd=dir_fd, follow_symlinks=False)):
            os.utime(path, dir_fd=dir_fd, follow_symlinks=False)


def is_recent(status: os.stat_result) -> bool:
    """Return whether the time of last use is within `PRECISION_NS` of now; the clock may jump."""
    return abs(time.time_ns() - status.st_mtime_ns) <= PRECISION_NS
