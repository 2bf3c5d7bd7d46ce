"""How often a store was asked, and answered, day by day: numbers in a small file of the store.

They are for people, and nothing relies on them.
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
"""The day that the file begins with, 2026-01-01, in days since 1970 (UTC)."""
_LAST_DAY = FIRST_DAY + 100_000
_DAY = struct.Struct("<8Q")
_DAY_S = 86_400
_TRIES = 50


class Counts(NamedTuple):
    """What was counted in some time.

    `has_hits` artifacts were there when `Store.missing` was asked for them, `has_misses` were not.
    Sysroots were made of `mount_hits` artifacts, and not made for lack of `mount_misses`. By
    overlay `overlays` were made, with `entries` files, directories and links that nobody had to
    make.
    """

    has_hits: int = 0
    has_misses: int = 0
    mount_hits: int = 0
    mount_misses: int = 0
    overlays: int = 0
    entries: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sums."""
        return Counts(*map(sum, zip(self, other, strict=True)))


def count(store: bytes, more: Counts) -> None:
    """Add to the counts of today (UTC) in the store at an absolute path.

    Where this user may not write, the disk is full, the file is gone, or somebody keeps it locked,
    nothing is counted: no task fails, or waits, for that.
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
    """Return the counts of a store by day, in days since 1970 (UTC); days without any are left out.

    Raises OSError; without the file there are none.
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
    """Lock the file, unless somebody holds the lock for longer than it takes to count."""
    for _ in range(_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.001)
    return False


def _unpacked(data: bytes) -> Counts:
    """Return the counts of one day; what is missing of it is zero."""
    return Counts(*_DAY.unpack(data.ljust(_DAY.size, b"\0"))[: len(Counts._fields)])


def _packed(counts: Counts) -> bytes:
    spare = _DAY.size // 8 - len(counts)
    return _DAY.pack(*(min(number, (1 << 64) - 1) for number in counts), *[0] * spare)
