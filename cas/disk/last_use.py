"""When something of the store was last used: the file system keeps it, as the time of a file.

So nothing has to be written to the index. `PRECISION_NS` spares most writes of times too.
"""

from __future__ import annotations

import contextlib
import os
import time

PRECISION_NS = 60 * 10**9
TICK_NS = 10_000_000
"""By how much the time of a file may be behind the clock: a tick at CONFIG_HZ=100."""


def note_use(path: bytes, dir_fd: int | None = None) -> None:
    """Note that what is at a path, or a symbolic link itself, is used now.

    Where this user may not, or the file system takes no writes, nothing is noted.
    """
    with contextlib.suppress(OSError):
        if not is_recent(os.stat(path, dir_fd=dir_fd, follow_symlinks=False)):
            os.utime(path, dir_fd=dir_fd, follow_symlinks=False)


def is_recent(found: os.stat_result) -> bool:
    """Tell whether a use was noted just before; or just after, by a clock that went back."""
    return abs(time.time_ns() - found.st_mtime_ns) <= PRECISION_NS
