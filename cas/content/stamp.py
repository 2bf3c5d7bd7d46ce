"""Tamper stamps: modification times that reveal a write to an object without reading it.

The last six digits (nanoseconds) of an object's modification time are derived from its digest. A
write to the file, for example through a link in a linked sysroot, sets another time, which has the
same digits once in a million.
"""

from __future__ import annotations

import os
import time

from cas.model.manifest import Digest

_STAMP_NS = 10**6
_FORMAT_DIGITS = 700_007
"""The stamp of the format file, which tests the precision of the file system."""


def stamp(fd: int, digest: Digest) -> None:
    """Stamp the file open at `fd`, whose content has this digest. Raises OSError."""
    stamp_at(fd, digest, time.time_ns())


def stamp_at(fd: int, digest: Digest, when_ns: int) -> None:
    """Like `stamp`, with a time just before `when_ns` (since 1970). Raises OSError."""
    when = (when_ns // _STAMP_NS - 1) * _STAMP_NS + _digits(digest)
    os.utime(fd, ns=(when, when))


def is_stamped(status: os.stat_result, digest: str | bytes) -> bool:
    """Return whether a file has the stamp of a digest."""
    return status.st_mtime_ns % _STAMP_NS == _digits(digest)


def mark_time_support(fd: int) -> None:
    """Prepare the file open at `fd` for `has_exact_times`. Raises OSError."""
    when = time.time_ns() // _STAMP_NS * _STAMP_NS + _FORMAT_DIGITS
    os.utime(fd, ns=(when, when))


def has_exact_times(marked: os.stat_result) -> bool:
    """Return whether the file system of a marked file stores times in nanoseconds.

    ext4 with small inodes stores only seconds.
    """
    return marked.st_mtime_ns % _STAMP_NS == _FORMAT_DIGITS


def _digits(digest: str | bytes) -> int:
    return int(digest[:8], 16) % _STAMP_NS
