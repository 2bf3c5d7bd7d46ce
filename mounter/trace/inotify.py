"""Watches which files any process opens in some directories, by inotify(7).

The kernel reports an open under the directory through which the file was reached, so a file with
several names, as in a store, is reported by the right one. Executing a program or mapping a library
opens it too. Watching needs no privileges and delays no process: the kernel queues events, and
reports an overflow of the queue.
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
"""struct inotify_event: watch, mask, cookie, length of the NUL-padded name that follows."""

_MASK = syscalls.IN_OPEN | syscalls.IN_ONLYDIR | syscalls.IN_DONT_FOLLOW
_READ_BYTES = 1 << 16
_MAX_PATH_BYTES = 4000
"""Longest path that is watched in one call: PATH_MAX (4096) less /proc/self/fd/N before it."""
_PAUSE_MS = 10
"""Pause between two reads, since waking up costs more than reading an event. Two
processors that only open files do not fill a queue of 16,384 (fs.inotify.max_queued_events) in
that time."""


class Watcher(Closeable):
    """Records which files are opened in directories; each tree of them has a number as its key.

    `complete` is False if events were lost. Raises OSError: EMFILE if this user has too many
    watchers (fs.inotify.max_user_instances).
    """

    def __init__(self) -> None:
        self._end_fd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self._fd = syscalls.inotify_init()
        except OSError:
            os.close(self._end_fd)
            raise
        self._directories: dict[int, tuple[int, bytes]] = {}
        self._events: set[bytes] = set()
        self._unmounted = False
        self.complete = True

    def add(self, key: int, root_fd: int, directories: Iterable[bytes]) -> None:
        """Watch the directory open at `root_fd`, and `directories`, which are paths below it.

        A directory must precede those in it. If it is missing, a symbolic link or not listed, it is
        skipped with all its subdirectories. Raises OSError: ENOSPC if this user has too many
        watches (fs.inotify.max_user_watches).
        """
        self._directories[self._watch(root_fd, b".")] = (key, b"")
        watched = {b""}
        with DirCursor(root_fd) as cursor:
            for path in directories:
                if os.path.dirname(path) not in watched:
                    continue
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    # By path where possible: opening a directory adds an event to the queue.
                    if len(path) > _MAX_PATH_BYTES:
                        watch = self._watch(cursor.at(path), b".")
                    else:
                        watch = self._watch(root_fd, path)
                    self._directories[watch] = (key, path)
                    watched.add(path)

    def _watch(self, fd: int, path: bytes) -> int:
        return syscalls.inotify_add_watch(self._fd, b"/proc/self/fd/%d/%s" % (fd, path), _MASK)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Record events in a thread for a `with` block, and the remaining ones at its end.

        Never fails: if no thread can be started, events are lost once the queue is full.
        """
        thread = threading.Thread(target=self._read_until_end, daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads
            thread.start()
        try:
            yield
        finally:
            os.eventfd_write(self._end_fd, 1)
            if thread.ident is not None:
                thread.join()
            self._read()

    def opened(self) -> set[tuple[int, bytes]]:
        """Return the files that were opened: pairs of a key and a path."""
        opened = set()
        for event in self._events:
            watch, mask, *_ = _EVENT.unpack_from(event)
            if mask & syscalls.IN_OPEN and not mask & syscalls.IN_ISDIR:
                key, directory = self._directories[watch]
                opened.add((key, os.path.join(directory, event[_EVENT.size :].rstrip(b"\0"))))
        return opened

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)
        os.close(self._end_fd)

    def _read_until_end(self) -> None:
        any_poll, end_poll = select.poll(), select.poll()
        for poll in (any_poll, end_poll):
            poll.register(self._end_fd, select.POLLIN)
        any_poll.register(self._fd, select.POLLIN)
        while not end_poll.poll(0):
            any_poll.poll()
            end_poll.poll(_PAUSE_MS)
            self._read()

    def _read(self) -> None:
        """Store the queued events, each distinct one once, to be decoded later."""
        # Only those queued now: a busy command could keep the loop from ever ending.
        try:
            pending = int.from_bytes(
                fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)), sys.byteorder
            )
            while pending > 0:
                data = os.read(self._fd, _READ_BYTES)
                pending -= len(data)
                self._store(data)
        except (OSError, MemoryError):
            self.complete = False

    def _store(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, start)
            end = start + _EVENT.size + length
            self._events.add(data[start:end])
            start = end
            # Unmounting at the end of a task queues two events for each directory; an overflow
            # after that loses no opened file.
            self._unmounted |= mask & syscalls.IN_UNMOUNT != 0
            self.complete &= self._unmounted or mask & syscalls.IN_Q_OVERFLOW == 0
