"""Which files are opened in some directories, whoever opens them: inotify(7).

The kernel notes an open in the directory through which the file was reached, in the same tree of
directories that the task sees; so one file with several names, as in a store, is not mistaken for
another. A program or library that is executed or mapped is opened too. It takes no privileges,
and nobody is held up: the kernel keeps the events in a queue, and one that does not fit is lost,
and told so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import termios
import threading
from collections.abc import Iterable, Iterator

from cas.system.closeable import Closeable
from cas.system.directories import DirCursor
from mounter import syscalls

_EVENT = struct.Struct("iIII")
"""struct inotify_event: watch, mask, cookie, length of the name that follows, padded with NULs."""

_MASK = syscalls.IN_OPEN | syscalls.IN_ONLYDIR | syscalls.IN_DONT_FOLLOW
_AT_ONCE = 1 << 16  # bytes of events
_LONGEST_PATH = 4000  # PATH_MAX is 4096, and a bit comes before it
_PAUSE_MS = 10
"""How long events gather: a queue takes 16,384 (fs.inotify.max_queued_events), which two
processors that do nothing but open files do not fill in that time; and to be waked for each costs
more than to note it."""


class Watcher(Closeable):
    """Watches directories, each known by a key; notes which files are opened in them.

    `whole` is False if something was lost, and others may have been opened. Raises OSError: EMFILE
    if this user watches in too many processes (fs.inotify.max_user_instances).
    """

    def __init__(self) -> None:
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self._fd = syscalls.inotify_init()
        except OSError:
            os.close(self._end)
            raise
        self._directories: dict[int, tuple[int, bytes]] = {}
        self._events: set[bytes] = set()
        self._unmounted = False
        self.whole = True

    def add(self, key: int, root_fd: int, directories: Iterable[bytes]) -> None:
        """Watch the directory open at `root_fd`, and those at paths below it.

        Each comes before those in it. One that is not there, or is a symbolic link, or is not among
        them, is passed over with all that is in it. Nothing is opened for it, since that would fill
        the queue. Raises OSError: ENOSPC if this user watches as many as it may
        (fs.inotify.max_user_watches).
        """
        self._directories[self._watch(root_fd, b".")] = (key, b"")
        watched = {b""}
        with DirCursor(root_fd) as cursor:
            for path in directories:
                if os.path.dirname(path) not in watched:
                    continue
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    if len(path) > _LONGEST_PATH:
                        watch = self._watch(cursor.at(path), b".")
                    else:
                        watch = self._watch(root_fd, path)
                    self._directories[watch] = (key, path)
                    watched.add(path)

    def _watch(self, fd: int, path: bytes) -> int:
        return syscalls.inotify_add_watch(self._fd, b"/proc/self/fd/%d/%s" % (fd, path), _MASK)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Note events while a `with` block runs, in a thread; and at its end all that are left.

        Nothing here fails: without a thread, events are lost if there are more than the queue
        takes.
        """
        thread = threading.Thread(target=self._read_until_end, daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads: an event that is lost is told
            thread.start()
        try:
            yield
        finally:
            os.eventfd_write(self._end, 1)
            if thread.ident is not None:
                thread.join()
            self._read()

    def opened(self) -> set[tuple[int, bytes]]:
        """Return what was opened and is no directory: each key with a path."""
        found = set()
        for event in self._events:
            watch, mask, *_ = _EVENT.unpack_from(event)
            if mask & syscalls.IN_OPEN and not mask & syscalls.IN_ISDIR:
                key, directory = self._directories[watch]
                found.add((key, os.path.join(directory, event[_EVENT.size :].rstrip(b"\0"))))
        return found

    def close(self) -> None:
        """Watch no more."""
        os.close(self._fd)
        os.close(self._end)

    def _read_until_end(self) -> None:
        either, ending = select.poll(), select.poll()
        for poll in (either, ending):
            poll.register(self._end, select.POLLIN)
        either.register(self._fd, select.POLLIN)
        while not ending.poll(0):
            either.poll()
            ending.poll(_PAUSE_MS)
            self._read()

    def _read(self) -> None:
        """Note the events that are in the queue now; each once, as it is, to be looked at later."""
        try:
            left = int.from_bytes(fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)), sys.byteorder)
            while left > 0:
                data = os.read(self._fd, _AT_ONCE)
                left -= len(data)
                self._note(data)
        except (OSError, MemoryError):
            self.whole = False

    def _note(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            end = at + _EVENT.size + length
            self._events.add(data[at:end])
            at = end
            # What is unmounted at the end of a task gives two events for each directory, and what
            # does not fit then is of no meaning.
            self._unmounted |= mask & syscalls.IN_UNMOUNT != 0
            self.whole &= self._unmounted or mask & syscalls.IN_Q_OVERFLOW == 0
