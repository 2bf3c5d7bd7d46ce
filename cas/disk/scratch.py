"""The store's `tmp/`: work in progress, told from what killed processes left behind.

Whatever is in it is locked (flock(2)) as long as its maker lives. Between making and locking,
and where something is too short-lived to be locked, the maker holds a shared lock on `tmp/`
itself; `clear_dead` holds it exclusively.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from typing import NamedTuple

from cas.disk.group_sharing import share_new
from cas.errors import CasError
from cas.system.directories import DIRECTORY_FLAGS, open_directory, remove_tree
from cas.system.oserrors import add_path, adding_path
from cas.system.signals import signals_blocked
from cas.system.text import quoted


class MayNotWrite(CasError):
    """This user may not write to a store."""

    def __init__(self, store: str | bytes) -> None:
        super().__init__(
            f"this user may not write to the store {quoted(store)}",
            hint="its owner can let a group share it: `cas init --shared`",
        )


class Scratch(NamedTuple):
    """The open directory `path`, relative to the store. Locked: its owner is alive."""

    fd: int
    path: bytes


def temporary_path(purpose: str) -> bytes:
    """Return an unused path in `tmp/`, relative to the store."""
    return f"tmp/{purpose}-{os.getpid()}-{os.urandom(8).hex()}".encode()


@contextlib.contextmanager
def tmp_lock(store_fd: int) -> Iterator[int]:
    """Keep `clear_dead` away from what is in the making in `tmp/`, which it opens.

    Raises OSError, MayNotWrite.
    """
    with open_directory(b"tmp", store_fd) as fd:
        with adding_path(fd):
            fcntl.flock(fd, fcntl.LOCK_SH)
        try:
            yield fd
        except PermissionError as error:
            raise MayNotWrite(os.readlink(f"/proc/self/fd/{store_fd}")) from error


@contextlib.contextmanager
def scratch(store_fd: int, purpose: str) -> Iterator[Scratch]:
    """Make a private directory in the store open at `store_fd`; delete it at the end.

    A child that was forked meanwhile, and leaves the block too, does not. Raises OSError.
    """
    owner, path, fd = os.getpid(), temporary_path(purpose), -1
    try:
        with signals_blocked(), tmp_lock(store_fd) as tmp, adding_path(store_fd):
            os.mkdir(path, 0o755, dir_fd=store_fd)
            fd = os.open(path, DIRECTORY_FLAGS, dir_fd=store_fd)
            share_new(fd, tmp)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield Scratch(fd, path)
    finally:
        if fd >= 0:
            if os.getpid() == owner:
                with signals_blocked():
                    remove_tree(path, store_fd)
            os.close(fd)  # and not before: what is not locked is dead


def locked_file(path: bytes, store_fd: int) -> int:
    """Make a file in `tmp/`, at a path relative to the store; return its locked descriptor.

    Raises OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with tmp_lock(store_fd) as tmp, adding_path(store_fd):
        fd = os.open(path, flags, 0o644, dir_fd=store_fd)
        share_new(fd, tmp)
        fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


@contextlib.contextmanager
def unnamed_file(store_fd: int) -> Iterator[int]:
    """Make a file on the store's file system, without a name if that can be (open(2), O_TMPFILE).

    It is gone at the end unless it was linked. Raises OSError.
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
    """Give the file `path`, relative to the store at the absolute path `store`, a new content.

    Others see the old content or the new one; with `durable` it is the new one after a power
    failure too. Raises OSError; then the old one is there.
    """
    unfinished = temporary_path(path.split(b"/")[0].decode())
    with open_directory(store) as store_fd, tmp_lock(store_fd) as tmp:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with adding_path(store_fd):
            fd = os.open(unfinished, flags, 0o644, dir_fd=store_fd)
        try:
            data = content.encode() if isinstance(content, str) else content
            with open(fd, "wb") as file:
                share_new(fd, tmp)
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(fd)
            os.rename(unfinished, path, src_dir_fd=store_fd, dst_dir_fd=store_fd)
            if durable:
                with open_directory(os.path.dirname(path) or b".", store_fd) as directory:
                    os.fsync(directory)
        except BaseException as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished, dir_fd=store_fd)
            if isinstance(error, OSError):
                add_path(error, store, path)
            raise


def clear_dead(store_fd: int, aside_fd: int) -> list[bytes]:
    """Move what killed processes left in `tmp/` into the directory `aside_fd`; return the names.

    Raises OSError.
    """
    moved = []
    with open_directory(b"tmp", store_fd) as tmp, adding_path(tmp):
        for name in find_dead(tmp):
            with contextlib.suppress(FileNotFoundError):  # its owner has just deleted it
                os.rename(name, name, src_dir_fd=tmp, dst_dir_fd=aside_fd)
                moved.append(name)
    return moved


def find_dead(tmp: int) -> list[bytes]:
    """Return the names of what killed processes left in the directory `tmp/`, open at `tmp`.

    It is locked from now on, until it is closed. Raises OSError.
    """
    fcntl.flock(tmp, fcntl.LOCK_EX)
    return [name for name in map(os.fsencode, os.listdir(tmp)) if not _has_owner(name, tmp)]


def _has_owner(name: bytes, tmp: int) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=tmp)
    except (FileNotFoundError, PermissionError):
        return True  # its owner has deleted it; or it is for another user to say
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        return False  # a symbolic link, or a socket: nobody here makes those
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
