"""The log of a store: artifacts put, removed and found damaged, with times and users.

Each event is a line of JSON in the file of its month (UTC). It is written after the event, so each
line is true; if the process is killed in between, the line is missing. The log is for people, and
nothing relies on it.
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
_KEPT_MONTHS = 13
"""Including the current month."""
_MAX_FILE_BYTES = 32 << 20
"""A larger file is renamed in place of the previous one, and a new one is begun."""
_MAX_TEXT_LENGTH = 1000
_OPEN_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FILE = re.compile(r"([0-9]{4}-[0-9]{2})(\.1)?")
"""The file of a month, or the previous full file of the same month."""


class EventKind(enum.Enum):
    """Kinds of events.

    PUT: an artifact was stored; REMOVED by `cas rm`, COLLECTED by `cas gc`, LOST because it was
    damaged. MERGED: a merged layer was built. FREED: disk space was freed by any of these.
    DAMAGED: damage was found; REPAIRED by `cas verify --repair` or by a put. REBUILT: the index was
    rebuilt. PINNED and UNPINNED.
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
    """An event at `time_ns` (since 1970), caused by the user `uid`.

    `kind` is the value of an EventKind; `id` and `tree` are those of the artifact, if it concerns
    one. `bytes` is the disk space taken, or freed. `what` has details as text.
    """

    time_ns: int
    kind: str
    uid: int
    id: str = ""
    tree: str = ""
    bytes: int = 0
    what: str = ""


class LogIncomplete(UserWarning):
    """A change could not be written to the log."""


def new_event(
    kind: EventKind,
    signature: Signature | str = "",
    *,
    tree: str = "",
    size: int = 0,
    what: str = "",
) -> Event:
    """Return an event with the current time and user."""
    uid = os.geteuid()
    return Event(
        time.time_ns(), kind.value, uid, str(signature), tree, size, what[:_MAX_TEXT_LENGTH]
    )


def append_events(store_fd: int, events: Iterable[Event]) -> None:
    """Append events to the log of the store open at `store_fd`.

    Does nothing if this user may not write. Any other error becomes a LogIncomplete warning, since
    the change itself cannot be undone.
    """
    lines = [json.dumps({k: v for k, v in e._asdict().items() if v or k == "uid"}) for e in events]
    if not lines:
        return
    try:
        with _directory(store_fd) as directory:
            fd = _open_month(directory, _month(time.time_ns()), store_fd)
            try:
                for line in lines:  # one write(2) each, so lines of several processes do not mix
                    _write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)
    except OSError as error:
        if error.errno == errno.EROFS or _may_not_write(store_fd):
            return
        warnings.warn(
            f"the log of the store could not be written ({error.strerror}); missing: "
            + lines[0][:200],
            LogIncomplete,
            stacklevel=2,
        )


def read_log(store: bytes, since_ns: int = 0) -> Iterator[Event]:
    """Yield the events of the store at an absolute path since a time, the newest first.

    Lines that cannot be parsed, as after a power failure, are skipped. Raises OSError.
    """
    directory = os.path.join(store, DIRECTORY)
    first = _month(since_ns)
    try:
        names = os.listdir(os.fsdecode(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    files = [match for match in map(_FILE.fullmatch, names) if match and match[1] >= first]
    for file in sorted(files, key=lambda match: (match[1], match[2] is None), reverse=True):
        for line in reversed(_lines(os.path.join(directory, file[0].encode()))):
            with contextlib.suppress(ValueError):
                event = record_of(Event, parse(line))
                if event.time_ns >= since_ns and event.kind in _KINDS:
                    yield event


def delete_old_logs(store_fd: int) -> None:
    """Delete log files that are too old, if this user may. Raises OSError."""
    oldest = _month(time.time_ns(), before=_KEPT_MONTHS - 1)
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        open_directory(DIRECTORY, store_fd) as directory,
    ):
        for name in os.listdir(directory):
            match = _FILE.fullmatch(name)
            if match and match[1] < oldest:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                    os.unlink(name, dir_fd=directory)


@contextlib.contextmanager
def _directory(store_fd: int) -> Iterator[int]:
    """Open the directory of the log; create it if it is missing. Raises OSError."""
    if not os.access(DIRECTORY, os.F_OK, dir_fd=store_fd, follow_symlinks=False):
        with contextlib.suppress(FileExistsError):
            make_subdirectory(DIRECTORY, store_fd)
            give_to_owner(DIRECTORY, store_fd)
    with open_directory(DIRECTORY, store_fd) as directory:
        yield directory


def _open_month(directory: int, name: str, store_fd: int) -> int:
    """Open or create the file of a month, with the permissions of the directory.

    A new file gets its name only after its permissions: another user could not write to it before,
    and would lose a line.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(name, _OPEN_FLAGS, dir_fd=directory)
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and not _set_aside(name, status, directory):
                return fd
            os.close(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
        with unnamed_file(store_fd) as new, contextlib.suppress(FileExistsError):
            allowed = os.fstat(directory)
            os.fchmod(new, allowed.st_mode & 0o666)
            if os.geteuid() == 0:
                os.fchown(new, allowed.st_uid, allowed.st_gid)
            os.link(f"/proc/self/fd/{new}", name, dst_dir_fd=directory, follow_symlinks=True)


def _set_aside(name: str, status: os.stat_result, directory: int) -> bool:
    """Rename a full file, replacing the previous one; return whether the caller must open again."""
    if status.st_size < _MAX_FILE_BYTES:
        return False
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another process is renaming it
        return False
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(status, os.stat(name, dir_fd=directory, follow_symlinks=False)):
            os.rename(name, f"{name}.1", src_dir_fd=directory, dst_dir_fd=directory)
    return True


def _may_not_write(store_fd: int) -> bool:
    for name in (DIRECTORY, b"."):
        if os.access(name, os.F_OK, dir_fd=store_fd):
            return not os.access(name, os.W_OK, dir_fd=store_fd)
    return True


def _write(fd: int, line: bytes) -> None:
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":  # a full disk truncated the last line
        line = b"\n" + line
    if os.write(fd, line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _lines(path: bytes) -> list[bytes]:
    """Return the lines of a file; of an oversized file, only the last ones."""
    try:
        fd = open_file(path)
    except (FileNotFoundError, ValueError):
        return []
    with open(fd, "rb", buffering=0) as file:
        size = os.fstat(fd).st_size
        file.seek(max(0, size - 2 * _MAX_FILE_BYTES))
        return file.read(2 * _MAX_FILE_BYTES).splitlines()


def _month(time_ns: int, before: int = 0) -> str:
    """Return the month (UTC) of a time, minus `before` months, as YYYY-MM."""
    moment = time.gmtime(min(time_ns // 10**9, 253_402_300_799))  # the end of the year 9999
    year, month = divmod(moment.tm_year * 12 + moment.tm_mon - 1 - before, 12)
    return f"{year:04}-{month + 1:02}"
