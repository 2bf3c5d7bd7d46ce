"""Trees by directory descriptors: of any depth, and never through a symbolic link."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from cas.errors import CasError
from cas.system.closeable import Closeable
from cas.system.oserrors import add_path, adding_path
from cas.system.text import quoted

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_VANISHED = (FileNotFoundError, PermissionError)


class TooDeep(CasError):
    """A tree is nested deeper than this process may have files open."""

    def __init__(self, path: bytes) -> None:
        depth = path.count(b"/") + 1
        super().__init__(
            f"a tree is nested {depth} directories deep, more than files may be open here",
            hint="raise the limit (`ulimit -n`)",
        )


@contextlib.contextmanager
def open_directory(path: bytes, dir_fd: int | None = None) -> Iterator[int]:
    """Open a directory, below `dir_fd` if that is given, for a `with` block. Raises OSError."""
    with adding_path(b"" if dir_fd is None else dir_fd):
        fd = os.open(path, DIRECTORY_FLAGS, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


class Node(NamedTuple):
    """A path met by `walk`: `name` in the directory open at `dir_fd`, until the next step."""

    path: bytes
    name: bytes
    dir_fd: int
    stat: os.stat_result


def walk(root_fd: int, *, vanishing: bool = False) -> Iterator[Node]:
    """Yield every path below the directory `root_fd` (borrowed), a directory before its content.

    `vanishing` and what is raised: see `iter_directories`.
    """
    for prefix, fd, entries in iter_directories(root_fd, vanishing=vanishing):
        for entry in entries:
            name = os.fsencode(entry.name)
            try:
                found = stat_of(entry, fd)
            except _VANISHED:
                if vanishing:
                    continue
                raise
            yield Node(prefix + name, name, fd, found)


def iter_directories(
    root_fd: int, *, vanishing: bool = False
) -> Iterator[tuple[bytes, int, list[os.DirEntry[str]]]]:
    """Yield the directory `root_fd` (borrowed) and every one below it, each before those in it.

    Of each: how the paths in it begin (b"", or with a slash at the end), a descriptor, until the
    next step, and what is in it.

    With `vanishing`, what others delete meanwhile is passed over, and directories that this user
    may not read, as one that another has made just now. Raises OSError and TooDeep. One descriptor
    is open for each level of depth.
    """
    stack: list[tuple[int, bytes, Iterator[os.DirEntry[str]]]] = []

    def enter(fd: int, prefix: bytes) -> tuple[bytes, int, list[os.DirEntry[str]]]:
        entries = _entries(fd)
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
                    listing = enter(_open_child(fd, name, path), path + b"/")
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
    """Return the state of an entry of the directory open at `fd`. Raises OSError, with its path."""
    try:
        return entry.stat(follow_symlinks=False)
    except OSError as error:
        add_path(error, fd, os.fsencode(entry.name))
        raise


def _entries(fd: int) -> list[os.DirEntry[str]]:
    """Return what is in an open directory; if that cannot be read, close it."""
    try:
        with os.scandir(fd) as entries:
            return list(entries)
    except BaseException as error:
        if isinstance(error, OSError):
            add_path(error, fd)
        os.close(fd)
        raise


def _open_child(fd: int, name: bytes, path: bytes) -> int:
    try:
        return os.open(name, DIRECTORY_FLAGS, dir_fd=fd)
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise TooDeep(path) from error
        add_path(error, fd)
        raise


class DirCursor(Closeable):
    """Gives descriptors of the directories below a root; cheap when asked in sorted order.

    The root descriptor is borrowed. The descriptors given stay open only until the next call.
    """

    def __init__(self, root_fd: int) -> None:
        self._fds = [root_fd]
        self._names: list[bytes] = []
        self._path = b""

    def at(self, path: bytes) -> int:
        """Return a descriptor of the directory at `path` (b"" is the root).

        Raises OSError (ELOOP or ENOTDIR if a part of it is a symbolic link) and TooDeep.
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
                self._fds.append(_open_child(self._fds[-1], name, path))
                self._names.append(name)
        finally:
            self._path = b"/".join(self._names)
        return self._fds[-1]

    def close(self) -> None:
        """Close all descriptors but that of the root."""
        self._up_to(0)

    def _up_to(self, depth: int) -> None:
        while len(self._names) > depth:
            self._names.pop()
            os.close(self._fds.pop())
        self._path = b"/".join(self._names)


@contextlib.contextmanager
def shortened_path(path: bytes, dir_fd: int) -> Iterator[tuple[bytes, int]]:
    """Yield a path and a directory that one system call can take for `path` below `dir_fd`.

    They are what was given, unless the path is longer than the kernel takes (PATH_MAX, 4096
    with the final NUL). Raises OSError and TooDeep.
    """
    if len(path) < 4096:
        yield path, dir_fd
        return
    with DirCursor(dir_fd) as cursor:
        parent, _, name = path.rpartition(b"/")
        yield name, cursor.at(parent)


def make_directory(name: bytes, mode: int, dir_fd: int) -> None:
    """Create a directory with exactly `mode`, whatever the umask is. Raises OSError."""
    with adding_path(dir_fd):
        os.mkdir(name, mode, dir_fd=dir_fd)
        os.chmod(name, mode, dir_fd=dir_fd)


def disk_use(found: os.stat_result) -> int:
    """Return the bytes of disk that go when a name of a file or directory goes (stat(2))."""
    if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
        return 0
    return found.st_blocks * 512


def disk_use_at(path: bytes, dir_fd: int | None = None) -> int:
    """Return what `disk_use` does of what is at a path, not followed; 0 if nothing is.

    Raises OSError.
    """
    try:
        return disk_use(os.stat(path, dir_fd=dir_fd, follow_symlinks=False))
    except FileNotFoundError:
        return 0


def remove_tree(name: bytes, dir_fd: int) -> int:
    """Delete the directory `name` in `dir_fd` with all that is in it; none there is no error.

    Returns the bytes of disk given back. Directories that may not be written to are made writable
    first. Another file system that is mounted in it is not entered: that is EBUSY. Raises OSError
    and TooDeep.
    """
    freed = 0
    device = os.fstat(dir_fd).st_dev
    try:
        stack = [_removing(name, dir_fd, name, device)]
    except FileNotFoundError:
        return freed
    try:
        while stack:
            fd, own_name, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                parent = stack[-2][0] if len(stack) > 1 else dir_fd
                freed += disk_use(os.fstat(fd))
                os.close(fd)
                stack.pop()
                with adding_path(parent):
                    os.rmdir(own_name, dir_fd=parent)
            elif entry.is_dir(follow_symlinks=False):
                name = os.fsencode(entry.name)
                stack.append(_removing(name, fd, b"/" * len(stack), device))
            else:
                freed += disk_use(entry.stat(follow_symlinks=False))
                os.unlink(entry.name, dir_fd=fd)
    except OSError as error:
        add_path(error, fd)
        raise
    finally:
        for fd, _, _ in stack:
            os.close(fd)
    return freed


def remove(name: bytes, dir_fd: int) -> int:
    """Delete what `name` in `dir_fd` is, like `remove_tree`; return the bytes given back."""
    try:
        return remove_tree(name, dir_fd)
    except NotADirectoryError:
        freed = disk_use(os.stat(name, dir_fd=dir_fd, follow_symlinks=False))
        os.unlink(name, dir_fd=dir_fd)
        return freed


def _removing(
    name: bytes, dir_fd: int, path: bytes, device: int
) -> tuple[int, bytes, Iterator[os.DirEntry[str]]]:
    fd = _open_child(dir_fd, name, path)
    try:
        with adding_path(fd):
            found = os.fstat(fd)
            if found.st_dev != device:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            if found.st_mode & 0o300 != 0o300:
                os.fchmod(fd, 0o700)
    except OSError:
        os.close(fd)
        raise
    return fd, name, iter(_entries(fd))


def attributes(path: bytes | int) -> list[str]:
    """Return the names of the extended attributes of what is at a path, or open (listxattr(2)).

    A file system that knows of none has none. Raises OSError.
    """
    try:
        return os.listxattr(path, follow_symlinks=isinstance(path, int))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []


def parents(path: bytes) -> Iterator[bytes]:
    """Yield the paths of the directories that a path is in, the outermost first."""
    end = path.find(b"/")
    while end >= 0:
        yield path[:end]
        end = path.find(b"/", end + 1)


def path_text(path: bytes, root: bytes) -> str:
    """Return a path below `root` as text for a message."""
    return quoted(root.rstrip(b"/") + b"/" + path)


def is_below(path: bytes, directory: bytes) -> bool:
    """Return whether an absolute path names a directory or something in it; looks at no disk."""
    return os.path.commonpath([path, directory]) == directory


def is_within(path: bytes, directory: bytes) -> bool:
    """Tell whether an absolute path is a directory's or of something in it, by whatever name.

    It may be mounted at several, as by a bind mount. What does not exist is where its parent is.
    """
    if is_below(path, directory):
        return True
    try:
        wanted = os.stat(directory)
    except OSError:
        return False
    while path != b"/":
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), wanted):
                return True
        path = os.path.dirname(path)
    return False
