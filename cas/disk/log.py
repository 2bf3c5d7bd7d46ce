"""The store's log: what was put, removed and found damaged, when, and by whom.

A line of JSON for each event, in a file for each month (UTC). It is written after the event, so
that each line is true; a process that is killed at that very moment leaves it out. People read
it, and nothing relies on it.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import json
import os
import re
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cas.disk.group_sharing import give_to_owner, make_subdirectory
from cas.disk.scratch import unnamed_file
from cas.model.signature import Signature
from cas.model.strict_json import parse, record_of
from cas.system.directories import open_directory
from cas.system.files import open_file

DIRECTORY = b"log"
_MONTHS = 13
"""For how many months events are kept, this one included."""
_LARGEST = 32 << 20
"""How many bytes a file gets before another one is begun, and the one before it is dropped."""
_LONGEST = 1000  # characters of text that an event may have
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FILE = re.compile(r"([0-9]{4}-[0-9]{2})(\.1)?")
"""The file of a month, or that of it which was full before."""


class EventKind(enum.Enum):
    """What can happen.

    PUT: an artifact was stored; REMOVED by `cas rm`, COLLECTED by `cas gc`, LOST since it was
    damaged. MERGED: a layer was made of many. FREED is what came back by any of these. DAMAGED was
    found; REPAIRED by `cas verify --repair`, or by a put; REBUILT is the index. PINNED, UNPINNED.
    """

    PUT = "put"
    REMOVED = "removed"
    COLLECTED = "collected"
    LOST = "lost"
    MERGED = "merged"
    FREED = "freed"
    DAMAGED = "damaged"
    REPAIRED = "repaired"
    REBUILT = "rebuilt"
    PINNED = "pinned"
    UNPINNED = "unpinned"


_KINDS = frozenset(kind.value for kind in EventKind)


class Event(NamedTuple):
    """Something that happened at `time_ns` (since 1970), done by the user `uid`.

    `kind` is the value of an EventKind, `id` the artifact's signature and `tree` its tree, if it
    is about one. `bytes` of disk were taken, or FREED. `what` says more, as text.
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
        with _directory(store_fd) as directory:
            fd = _open_month(directory, _month(time.time_ns()), store_fd)
            try:
                for line in lines:  # each by one call, so that no other process gets between
                    _write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)
    except OSError as error:
        if error.errno == errno.EROFS or _may_not_write(store_fd):
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
    try:
        names = os.listdir(os.fsdecode(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    found = [one for one in map(_FILE.fullmatch, names) if one and one[1] >= first]
    for one in sorted(found, key=lambda one: (one[1], one[2] is None), reverse=True):
        for line in reversed(_lines(os.path.join(directory, one[0].encode()))):
            with contextlib.suppress(ValueError):
                event = record_of(Event, parse(line))
                if event.time_ns >= since_ns and event.kind in _KINDS:
                    yield event


def forget_old(store_fd: int) -> None:
    """Delete the log of months that are long over, as far as this user may. Raises OSError."""
    oldest = _month(time.time_ns(), before=_MONTHS - 1)
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        open_directory(DIRECTORY, store_fd) as directory,
    ):
        for name in os.listdir(directory):
            found = _FILE.fullmatch(name)
            if found and found[1] < oldest:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                    os.unlink(name, dir_fd=directory)


@contextlib.contextmanager
def _directory(store_fd: int) -> Iterator[int]:
    """Open the log's directory; make it where it is missing. Raises OSError."""
    if not os.access(DIRECTORY, os.F_OK, dir_fd=store_fd, follow_symlinks=False):
        with contextlib.suppress(FileExistsError):
            make_subdirectory(DIRECTORY, store_fd)
            give_to_owner(DIRECTORY, store_fd)
    with open_directory(DIRECTORY, store_fd) as directory:
        yield directory


def _open_month(directory: int, name: str, store_fd: int) -> int:
    """Open the file of a month, which whoever may use the directory may use, too.

    It gets a name when all may: else what others log meanwhile would be lost.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(name, _FLAGS, dir_fd=directory)
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and not _set_aside(name, found, directory):
                return fd
            os.close(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
        with unnamed_file(store_fd) as new, contextlib.suppress(FileExistsError):
            allowed = os.fstat(directory)
            os.fchmod(new, allowed.st_mode & 0o666)
            if os.geteuid() == 0:
                os.fchown(new, allowed.st_uid, allowed.st_gid)
            os.link(f"/proc/self/fd/{new}", name, dst_dir_fd=directory, follow_symlinks=True)


def _set_aside(name: str, found: os.stat_result, directory: int) -> bool:
    """Rename a file that is full, in the place of the one before; tell whether to look again."""
    if found.st_size < _LARGEST:
        return False
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # somebody does it now
        return False
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(found, os.stat(name, dir_fd=directory, follow_symlinks=False)):
            os.rename(name, f"{name}.1", src_dir_fd=directory, dst_dir_fd=directory)
    return True


def _may_not_write(store_fd: int) -> bool:
    for name in (DIRECTORY, b"."):
        if os.access(name, os.F_OK, dir_fd=store_fd):
            return not os.access(name, os.W_OK, dir_fd=store_fd)
    return True


def _write(fd: int, line: bytes) -> None:
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":  # a full disk has cut the last line
        line = b"\n" + line
    if os.write(fd, line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _lines(path: bytes) -> list[bytes]:
    """Return the lines of a file, of one that is absurdly large the last ones."""
    try:
        fd = open_file(path)
    except (FileNotFoundError, ValueError):
        return []
    with open(fd, "rb", buffering=0) as file:
        size = os.fstat(fd).st_size
        file.seek(max(0, size - 2 * _LARGEST))
        return file.read(2 * _LARGEST).splitlines()


def _month(time_ns: int, before: int = 0) -> str:
    """Return the name of the month (UTC) of a time, or of one so many months before."""
    moment = time.gmtime(min(time_ns // 10**9, 253_402_300_799))  # the end of the year 9999
    year, month = divmod(moment.tm_year * 12 + moment.tm_mon - 1 - before, 12)
    return f"{year:04}-{month + 1:02}"
