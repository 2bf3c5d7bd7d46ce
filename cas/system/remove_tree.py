"""Removes directory trees of any depth, and counts the disk space freed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from cas.system.directories import entries_of, open_child
from cas.system.disk_use import disk_use
from cas.system.oserrors import add_path, adding_path


def remove_tree(name: bytes, dir_fd: int) -> int:
    """Delete the directory `name` in `dir_fd` and its content; do nothing if it does not exist.

    Returns the disk space freed, in bytes. Read-only directories are made writable first. A file
    system mounted inside is not entered, but raises EBUSY. Raises OSError and TooDeep.
    """
    freed = 0
    device = os.fstat(dir_fd).st_dev
    try:
        stack = [_open_writable(name, dir_fd, name, device)]
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
                # The depth is all that TooDeep needs of the path.
                stack.append(_open_writable(name, fd, b"/" * len(stack), device))
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
    """Delete the file or tree `name` in `dir_fd`; return the disk space freed, in bytes."""
    try:
        return remove_tree(name, dir_fd)
    except NotADirectoryError:
        freed = disk_use(os.stat(name, dir_fd=dir_fd, follow_symlinks=False))
        os.unlink(name, dir_fd=dir_fd)
        return freed


def _open_writable(
    name: bytes, dir_fd: int, path: bytes, device: int
) -> tuple[int, bytes, Iterator[os.DirEntry[str]]]:
    fd = open_child(dir_fd, name, path)
    try:
        with adding_path(fd):
            status = os.fstat(fd)
            if status.st_dev != device:  # a file system is mounted here
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            if status.st_mode & 0o300 != 0o300:  # w and x: needed to delete names in it
                os.fchmod(fd, 0o700)
    except OSError:
        os.close(fd)
        raise
    return fd, name, iter(entries_of(fd))
