"""Scratch files and directories in `tmp/` of the store, and the leftovers of killed processes.

Each entry is locked (flock(2)) while its creator lives. Until it is locked, and for entries that
are too short-lived to lock, the creator holds a shared lock on `tmp/` itself. `move_stale` takes
that lock exclusively, so an unlocked entry that it finds is stale.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from typing import NamedTuple

from cas.disk.group_sharing import share_with_group
from cas.errors import CasError
from cas.system.debug_log import debug
from cas.system.directories import DIRECTORY_FLAGS, open_directory
from cas.system.file_lock import wait_for_lock
from cas.system.oserrors import add_path, adding_path
from cas.system.remove_tree import remove_tree
from cas.system.signals import signals_blocked
from cas.system.text import quoted


class MayNotWrite(CasError):
    """This user has no write permission for the store."""

    def __init__(self, store: str | bytes) -> None:
        super().__init__(
            f"no write permission for the store {quoted(store)}",
            hint="ask the owner to share it with a group (`cas init --shared`)",
        )


class Scratch(NamedTuple):
    """An open and locked directory; `path` is relative to the store."""

    fd: int
    path: bytes


def temporary_path(purpose: str) -> bytes:
    """Return an unused path in `tmp/`, relative to the store."""
    return f"tmp/{purpose}-{os.getpid()}-{os.urandom(8).hex()}".encode()


@contextlib.contextmanager
def tmp_lock(store_fd: int) -> Iterator[int]:
    """Open `tmp/` and hold its shared lock, so that `move_stale` does not take new entries.

    Raises OSError, MayNotWrite.
    """
    with open_directory(b"tmp", store_fd) as fd:
        with adding_path(fd):
            wait_for_lock(fd, fcntl.LOCK_SH, b"tmp")
        try:
            yield fd
        except PermissionError as error:
            raise MayNotWrite(os.readlink(f"/proc/self/fd/{store_fd}")) from error


@contextlib.contextmanager
def scratch(store_fd: int, purpose: str) -> Iterator[Scratch]:
    """Create a locked directory in the store open at `store_fd`; delete it at the end.

    A forked child that leaves the block does not delete it. Raises OSError.
    """
    owner, path, fd = os.getpid(), temporary_path(purpose), -1
    try:
        with signals_blocked(), tmp_lock(store_fd) as tmp, adding_path(store_fd):
            os.mkdir(path, 0o755, dir_fd=store_fd)
            fd = os.open(path, DIRECTORY_FLAGS, dir_fd=store_fd)
            share_with_group(fd, tmp)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield Scratch(fd, path)
    finally:
        if fd >= 0:
            if os.getpid() == owner:
                with signals_blocked():
                    remove_tree(path, store_fd)
            os.close(fd)  # only now: an unlocked directory counts as stale


def locked_file(path: bytes, store_fd: int) -> int:
    """Create a file in `tmp/` at a path relative to the store; return its locked descriptor.

    Raises OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with tmp_lock(store_fd) as tmp, adding_path(store_fd):
        fd = os.open(path, flags, 0o644, dir_fd=store_fd)
        share_with_group(fd, tmp)
        fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


@contextlib.contextmanager
def unnamed_file(store_fd: int) -> Iterator[int]:
    """Create a file on the store's file system, unnamed if possible (open(2), O_TMPFILE).

    Unless it is linked, it is gone at the end. Raises OSError.
    """
    name = None
    try:
        fd = os.open("tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=store_fd)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        name = temporary_path("object")
        fd = locked_file(name, store_fd)
    try:
        yield fd
    finally:
        if name is not None:
            os.unlink(name, dir_fd=store_fd)
        os.close(fd)


def replace_file(store: bytes, path: bytes, content: str | bytes, *, durable: bool = False) -> None:
    """Replace the file `path`, relative to the store at the absolute path `store`, atomically.

    Others see the old content or the new one. With `durable`, the new content survives a power
    failure. Raises OSError; the old content then remains.
    """
    temporary = temporary_path(path.split(b"/")[0].decode())
    with open_directory(store) as store_fd, tmp_lock(store_fd) as tmp:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with adding_path(store_fd):
            fd = os.open(temporary, flags, 0o644, dir_fd=store_fd)
        try:
            data = content.encode() if isinstance(content, str) else content
            with open(fd, "wb") as file:
                share_with_group(fd, tmp)
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(fd)
            os.rename(temporary, path, src_dir_fd=store_fd, dst_dir_fd=store_fd)
            if durable:
                with open_directory(os.path.dirname(path) or b".", store_fd) as directory:
                    os.fsync(directory)
        except BaseException as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=store_fd)
            if isinstance(error, OSError):
                add_path(error, store, path)
            raise


def move_stale(store_fd: int, aside_fd: int) -> list[bytes]:
    """Move leftovers of killed processes from `tmp/` to the directory `aside_fd`; return the names.

    Raises OSError.
    """
    moved = []
    with open_directory(b"tmp", store_fd) as tmp, adding_path(tmp):
        for name in stale_names(tmp):
            with contextlib.suppress(FileNotFoundError):  # its owner deleted it just now
                os.rename(name, name, src_dir_fd=tmp, dst_dir_fd=aside_fd)
                moved.append(name)
    if moved:
        debug("moved %d leftovers of killed processes out of tmp", len(moved))
    return moved


def stale_names(tmp: int) -> list[bytes]:
    """Return the names of the leftovers of killed processes in `tmp/`, open at `tmp`.

    Locks `tmp/` exclusively until the descriptor is closed. Raises OSError.
    """
    wait_for_lock(tmp, fcntl.LOCK_EX, b"tmp")
    return [name for name in map(os.fsencode, os.listdir(tmp)) if not _may_be_locked(name, tmp)]


def _may_be_locked(name: bytes, tmp: int) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=tmp)
    except (FileNotFoundError, PermissionError):
        return True  # its owner deleted it, or only another user can find out
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        return False  # a symbolic link or a socket, which cas never creates
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
