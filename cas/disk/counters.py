"""Counters of hits and misses for each day, in a small file of the store.

They are for people; nothing relies on them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from typing import NamedTuple

from cas.system.files import open_file

HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS
NAME = b"counts"
FIRST_DAY = 20_454
"""The first day of the file, 2026-01-01, in days since 1970 (UTC)."""
_LAST_DAY = FIRST_DAY + 100_000
_DAY = struct.Struct("<8Q")
_DAY_S = 86_400
_LOCK_TRIES = 50
"""One millisecond apart."""


class Counts(NamedTuple):
    """Counts of a day or of several days.

    Of the artifacts that `Store.missing` looked up, `has_hits` were stored and `has_misses` were
    not. Sysroots were composed of `mount_hits` artifacts, and failed for lack of `mount_misses`.
    `overlays` sysroots were overlay mounts, which saved creating `entries` files, directories and
    links.
    """

    has_hits: int = 0
    has_misses: int = 0
    mount_hits: int = 0
    mount_misses: int = 0
    overlays: int = 0
    entries: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sum of two counts."""
        return Counts(*map(sum, zip(self, other, strict=True)))


def add_counts(store: bytes, more: Counts) -> None:
    """Add to the counts of today (UTC) in the store at an absolute path.

    Errors are ignored, and a lock is waited for only briefly: counting must not fail or delay a
    task.
    """
    day = time.time_ns() // 10**9 // _DAY_S
    if not FIRST_DAY <= day <= _LAST_DAY:
        return
    place = (day - FIRST_DAY) * _DAY.size
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        fd = os.open(os.path.join(store, NAME), flags)
        try:
            if _locked(fd):
                os.pwrite(fd, _packed(_unpacked(os.pread(fd, _DAY.size, place)).plus(more)), place)
        finally:
            os.close(fd)


def read_counts(store: bytes, since_day: int = FIRST_DAY) -> dict[int, Counts]:
    """Return the counts of a store by day (days since 1970, UTC), without days that have none.

    A missing file is empty. Raises OSError.
    """
    first = max(since_day, FIRST_DAY)
    try:
        fd = open_file(os.path.join(store, NAME))
    except (FileNotFoundError, ValueError):
        return {}
    try:
        size = min(os.fstat(fd).st_size, (_LAST_DAY - FIRST_DAY + 1) * _DAY.size)
        start = (first - FIRST_DAY) * _DAY.size
        data = os.pread(fd, max(0, size - start), start)
    finally:
        os.close(fd)
    days = [_unpacked(data[at : at + _DAY.size]) for at in range(0, len(data), _DAY.size)]
    return {first + number: counts for number, counts in enumerate(days) if any(counts)}


def _locked(fd: int) -> bool:
    """Lock the file; return whether that succeeded within a short time."""
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.001)
    return False


def _unpacked(data: bytes) -> Counts:
    """Return the counts of one day; missing bytes are zero."""
    return Counts(*_DAY.unpack(data.ljust(_DAY.size, b"\0"))[: len(Counts._fields)])


def _packed(counts: Counts) -> bytes:
    spare = _DAY.size // 8 - len(counts)
    return _DAY.pack(*(min(number, (1 << 64) - 1) for number in counts), *[0] * spare)
