"""File locks (flock(2))."""

from __future__ import annotations

import fcntl

from cas.system.debug_log import debug
from cas.system.text import quoted


def wait_for_lock(fd: int, operation: int, path: str | bytes) -> None:
    """Take the lock `fcntl.LOCK_SH` or `fcntl.LOCK_EX` on the file open at `fd`.

    `path` names the file in the debug log if another process holds the lock. Raises OSError.
    """
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        debug("waiting for the lock %s", quoted(path))
        fcntl.flock(fd, operation)
        debug("got the lock %s", quoted(path))
