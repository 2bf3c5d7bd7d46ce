"""Directory trees through descriptors: of any depth, and never through a symbolic link."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from cas.errors import CasError
from cas.system.closeable import Closeable
from cas.system.oserrors import add_path, adding_path

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_VANISHED = (FileNotFoundError, PermissionError)
"""PermissionError, too: another user may have created the entry just now, without a mode yet."""


class TooDeep(CasError):
    """A tree is nested deeper than the limit of open files."""

    def __init__(self, path: bytes) -> None:
        depth = path.count(b"/") + 1
        super().__init__(
            f"a tree is nested {depth} directories deep, more than the limit of open files",
            hint="raise the limit of open files (`ulimit -n`)",
        )


@contextlib.contextmanager
def open_directory(path: bytes, dir_fd: int | None = None) -> Iterator[int]:
    """Open a directory, relative to `dir_fd` if given, for a `with` block. Raises OSError."""
    with adding_path(b"" if dir_fd is None else dir_fd):
        fd = os.open(path, DIRECTORY_FLAGS, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


class Node(NamedTuple):
    """A path yielded by `walk`: `name` in the directory open at `dir_fd`, until the next step."""

    path: bytes
    name: bytes
    dir_fd: int
    stat: os.stat_result


def walk(root_fd: int, *, vanishing: bool = False) -> Iterator[Node]:
    """Yield every path below the directory `root_fd` (borrowed), a directory before its content.

    `iter_directories` explains `vanishing` and the exceptions.
    """
    for prefix, fd, entries in iter_directories(root_fd, vanishing=vanishing):
        for entry in entries:
            name = os.fsencode(entry.name)
            try:
                status = stat_of(entry, fd)
            except _VANISHED:
                if vanishing:
                    continue
                raise
            yield Node(prefix + name, name, fd, status)


def iter_directories(
    root_fd: int, *, vanishing: bool = False
) -> Iterator[tuple[bytes, int, list[os.DirEntry[str]]]]:
    """Yield the directory `root_fd` (borrowed) and all directories below it, parents first.

    Yields the prefix of the paths in the directory (b"", or ending in a slash), a descriptor that
    is open until the next step, and the entries.

    With `vanishing`, entries that disappear, and directories that this user may not read, are
    skipped. Raises OSError and TooDeep. One descriptor is open for each level of depth.
    """
    stack: list[tuple[int, bytes, Iterator[os.DirEntry[str]]]] = []

    def enter(fd: int, prefix: bytes) -> tuple[bytes, int, list[os.DirEntry[str]]]:
        entries = entries_of(fd)
        stack.append((fd, prefix, iter(entries)))
        return prefix, fd, entries

    try:
        with adding_path(root_fd):
            copy = os.dup(root_fd)
        yield enter(copy, b"")
        while stack:
            fd, prefix, rest = stack[-1]
            entry = next(rest, None)
            if entry is None:
                os.close(fd)
                stack.pop()
            elif entry.is_dir(follow_symlinks=False):
                name = os.fsencode(entry.name)
                path = prefix + name
                try:
                    listing = enter(open_child(fd, name, path), path + b"/")
                except OSError as error:
                    if vanishing and isinstance(error, _VANISHED):
                        continue
                    add_path(error, fd, name)
                    raise
                yield listing
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def stat_of(entry: os.DirEntry[str], fd: int) -> os.stat_result:
    """Return the stat of an entry of the directory open at `fd`. Raises OSError, with its path."""
    try:
        return entry.stat(follow_symlinks=False)
    except OSError as error:
        add_path(error, fd, os.fsencode(entry.name))
        raise


def entries_of(fd: int) -> list[os.DirEntry[str]]:
    """Return the entries of an open directory. On an error, close `fd`, and raise OSError."""
    try:
        with os.scandir(fd) as entries:
            return list(entries)
    except BaseException as error:
        if isinstance(error, OSError):
            add_path(error, fd)
        os.close(fd)
        raise


def open_child(fd: int, name: bytes, path: bytes) -> int:
    """Open the directory `name` in `fd`. Raises OSError, and TooDeep, which counts `path`'s depth.

    A tree is walked with one descriptor open for each level, so EMFILE means a deep tree.
    """
    try:
        return os.open(name, DIRECTORY_FLAGS, dir_fd=fd)
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise TooDeep(path) from error
        add_path(error, fd)
        raise


class DirCursor(Closeable):
    """Opens directories below a root, cheaply if they are requested in sorted order.

    The root descriptor is borrowed. A returned descriptor stays open only until the next call.
    """

    def __init__(self, root_fd: int) -> None:
        self._fds = [root_fd]
        self._names: list[bytes] = []
        self._path = b""

    def at(self, path: bytes) -> int:
        """Return a descriptor of the directory at `path` (b"" is the root).

        Raises OSError (ELOOP or ENOTDIR if a component is a symbolic link) and TooDeep.
        """
        if path == self._path:
            return self._fds[-1]
        names = path.split(b"/") if path else []
        common = 0
        for mine, wanted in zip(self._names, names, strict=False):
            if mine != wanted:
                break
            common += 1
        self._up_to(common)
        try:
            for name in names[common:]:
                self._fds.append(open_child(self._fds[-1], name, path))
                self._names.append(name)
        finally:
            self._path = b"/".join(self._names)
        return self._fds[-1]

    def close(self) -> None:
        """Close all descriptors except the root."""
        self._up_to(0)

    def _up_to(self, depth: int) -> None:
        while len(self._names) > depth:
            self._names.pop()
            os.close(self._fds.pop())
        self._path = b"/".join(self._names)


@contextlib.contextmanager
def shortened_path(path: bytes, dir_fd: int) -> Iterator[tuple[bytes, int]]:
    """Yield a path and a directory descriptor that system calls accept for `path` below `dir_fd`.

    These are the arguments, unless the path is longer than the kernel accepts (PATH_MAX, 4096
    bytes with the final NUL). Raises OSError and TooDeep.
    """
    if len(path) < 4096:
        yield path, dir_fd
        return
    with DirCursor(dir_fd) as cursor:
        parent, _, name = path.rpartition(b"/")
        yield name, cursor.at(parent)


def make_directory(name: bytes, mode: int, dir_fd: int) -> None:
    """Create a directory with exactly `mode`, independent of the umask. Raises OSError."""
    with adding_path(dir_fd):
        os.mkdir(name, mode, dir_fd=dir_fd)
        os.chmod(name, mode, dir_fd=dir_fd)


def attributes(path: bytes | int) -> list[str]:
    """Return the names of the extended attributes of a path or descriptor (listxattr(2)).

    A file system without extended attributes has none. Raises OSError.
    """
    try:
        return os.listxattr(path, follow_symlinks=isinstance(path, int))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []
