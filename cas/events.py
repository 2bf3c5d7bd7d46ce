"""The store's log: what was put, removed and found damaged, when, and by whom.

A line of JSON for each event, in a file for each month (UTC). It is written after the event, so
that each line is true; a process that is killed at that very moment leaves it out. People read
it, and nothing relies on it.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cas.dirs import opened
from cas.documents import parse, read_file, record_of
from cas.sharing import share_new
from cas.signature import Signature

DIRECTORY = b"log"
_MONTHS = 13
"""For how many months events are kept, this one included."""
_LONGEST = 1000  # characters of text that an event may have
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class EventKind(enum.Enum):
    """What can happen.

    PUT: an artifact was stored; REMOVED by `cas rm`, COLLECTED by `cas gc`, and FREED is what came
    back by one of these. DAMAGED was found; REPAIRED by `cas verify --repair`; REBUILT is the
    index. PINNED and UNPINNED.
    """

    PUT = "put"
    REMOVED = "removed"
    COLLECTED = "collected"
    FREED = "freed"
    DAMAGED = "damaged"
    REPAIRED = "repaired"
    REBUILT = "rebuilt"
    PINNED = "pinned"
    UNPINNED = "unpinned"


class Event(NamedTuple):
    """Something that happened at `time_ns` (since 1970), done by the user `uid`.

    `kind` is the value of an EventKind, `id` the artifact's signature and `tree` its tree, if it
    is about one; `bytes` of disk were taken by a PUT, or came back when they were FREED. `what`
    says more, as text.
    """

    time_ns: int
    kind: str
    uid: int
    id: str = ""
    tree: str = ""
    bytes: int = 0
    what: str = ""


class LogIncomplete(UserWarning):
    """Something was done, and could not be written to the log."""


def event(
    kind: EventKind,
    signature: Signature | str = "",
    *,
    tree: str = "",
    size: int = 0,
    what: str = "",
) -> Event:
    """Return an event of now, of this user."""
    uid = os.geteuid()
    return Event(time.time_ns(), kind.value, uid, str(signature), tree, size, what[:_LONGEST])


def log(store_fd: int, events: Iterable[Event]) -> None:
    """Write what has happened to the log of the store open at `store_fd`.

    Where this user may not write, nothing is; any other error is told by a LogIncomplete warning,
    since what has happened cannot be taken back.
    """
    lines = [json.dumps({k: v for k, v in e._asdict().items() if v or k == "uid"}) for e in events]
    if not lines:
        return
    try:
        with opened(DIRECTORY, store_fd) as directory:
            fd = _open_month(directory, _month(time.time_ns()))
            try:
                for line in lines:  # each by one call, so that no other process gets between
                    _write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return
        warnings.warn(
            f"the log of the store could not be written ({error.strerror}), so it lacks: "
            + lines[0][:200],
            LogIncomplete,
            stacklevel=2,
        )


def read_log(store: bytes, since_ns: int = 0) -> Iterator[Event]:
    """Yield the events of the store at an absolute path since a time, the newest first.

    What cannot be read, since a power failure has cut it for example, is passed over. Raises
    OSError.
    """
    directory = os.path.join(store, DIRECTORY)
    first = _month(since_ns)
    for name in sorted(map(os.fsdecode, os.listdir(directory)), reverse=True):
        if not _is_month(name) or name < first:
            continue
        try:
            data = read_file(os.path.join(directory, os.fsencode(name)))
        except (FileNotFoundError, ValueError):
            continue
        for line in reversed(data.splitlines()):
            with contextlib.suppress(ValueError):
                found = record_of(Event, parse(line))
                if found.time_ns >= since_ns:
                    yield found


def forget_old(store_fd: int) -> None:
    """Delete the log of months that are long over. Raises OSError."""
    oldest = _month(time.time_ns(), before=_MONTHS - 1)
    with opened(DIRECTORY, store_fd) as directory:
        for name in os.listdir(directory):
            if _is_month(name) and name < oldest:
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    os.unlink(name, dir_fd=directory)


def _open_month(directory: int, name: str) -> int:
    """Open the file of a month; one that root makes belongs to whom the directory belongs."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(name, _FLAGS, dir_fd=directory)
        with contextlib.suppress(FileExistsError):
            fd = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)
            share_new(fd, directory)
            if os.geteuid() == 0:
                owner = os.fstat(directory)
                os.fchown(fd, owner.st_uid, owner.st_gid)
            return fd


def _write(fd: int, line: bytes) -> None:
    if os.write(fd, line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _month(time_ns: int, before: int = 0) -> str:
    """Return the name of the month (UTC) of a time, or of one so many months before."""
    moment = time.gmtime(min(time_ns // 10**9, 253_402_300_799))  # the end of the year 9999
    year, month = divmod(moment.tm_year * 12 + moment.tm_mon - 1 - before, 12)
    return f"{year:04}-{month + 1:02}"


def _is_month(name: str) -> bool:
    year, _, month = name.partition("-")
    return name.isascii() and len(year) == 4 and len(month) == 2 and (year + month).isdigit()
