"""The stamp of a content: by its time, a write to it shows without reading it.

The time of a content's file, when it was first stored, has in its last six digits (nanoseconds)
a number that is made of its digest. Whoever writes into the file, through a link of a linked
sysroot for example, gives it another time, and by chance the same digits once in a million.
"""

from __future__ import annotations

import os
import time

from cas.model.manifest import Digest

_UNIT = 10**6
_OF_FORMAT = 700_007


def stamp(fd: int, digest: Digest) -> None:
    """Give the file open at `fd`, whose content has this digest, its stamp. Raises OSError."""
    stamp_at(fd, digest, time.time_ns())


def stamp_at(fd: int, digest: Digest, when_ns: int) -> None:
    """Like `stamp`, with a time just before `when_ns` (since 1970). Raises OSError."""
    when = (when_ns // _UNIT - 1) * _UNIT + _digits(digest)
    os.utime(fd, ns=(when, when))


def is_stamped(found: os.stat_result, digest: str | bytes) -> bool:
    """Tell whether a file has the stamp of a digest."""
    return found.st_mtime_ns % _UNIT == _digits(digest)


def mark_time_support(fd: int) -> None:
    """Let `has_exact_times` find out from the file open at `fd`. Raises OSError."""
    when = time.time_ns() // _UNIT * _UNIT + _OF_FORMAT
    os.utime(fd, ns=(when, when))


def has_exact_times(tried: os.stat_result) -> bool:
    """Tell whether the file system of what was tried out keeps times that exactly.

    Not all do: ext4 with small inodes keeps seconds.
    """
    return tried.st_mtime_ns % _UNIT == _OF_FORMAT


def _digits(digest: str | bytes) -> int:
    return int(digest[:8], 16) % _UNIT
