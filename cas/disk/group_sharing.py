"""Stores that a group of users shares.

A shared store has the usual modes of a shared directory: its group may write, and the set-group-ID
bit makes the kernel give new files to that group (inode(7)). New directories in a shared directory
of a store are shared in the same way.
"""

from __future__ import annotations

import os
import stat

from cas.errors import InputRefused
from cas.system.directories import open_directory, walk
from cas.system.progress import Progress

_SHARED_MODE = stat.S_ISGID | stat.S_IWGRP
_WRITTEN_IN_PLACE = (b"counts", b"index/data.mdb", b"reserve")
"""Files that every user of the group writes to; others are replaced by renaming."""
_READ_ONLY = (b"layers", b"manifests", b"objects")
"""Files in these directories stay read-only."""


def is_shared(dir_fd: int) -> bool:
    """Return whether a group shares a directory."""
    return os.fstat(dir_fd).st_mode & _SHARED_MODE == _SHARED_MODE


def directory_mode(dir_fd: int) -> int:
    """Return the mode of a new directory in `dir_fd` that every user may read."""
    return 0o2775 if is_shared(dir_fd) else 0o755


def share_with_group(fd: int, dir_fd: int) -> None:
    """Give the group access to a new file or directory in `dir_fd`, independent of the umask.

    If `dir_fd` is not shared, do nothing. Raises OSError.
    """
    if is_shared(dir_fd):
        os.fchmod(fd, 0o2775 if stat.S_ISDIR(os.fstat(fd).st_mode) else 0o664)


def make_subdirectory(name: bytes, dir_fd: int) -> None:
    """Create a directory in `dir_fd` for the same users. Raises OSError."""
    os.mkdir(name, 0o755, dir_fd=dir_fd)
    with open_directory(name, dir_fd) as new:
        share_with_group(new, dir_fd)


def give_to_owner(name: bytes, store_fd: int) -> None:
    """As root, give a new entry of a store to the owner of the store. Raises OSError."""
    if os.geteuid() == 0:
        owner = os.fstat(store_fd)
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=store_fd, follow_symlinks=False)


def share_store(store_fd: int, group: int, progress: Progress) -> None:
    """Share a store with the group ID `group`.

    Parents come before their content, so an entry that another process creates meanwhile inherits
    the mode from its parent or gets it here. `progress` counts files. Raises InputRefused, OSError.
    """
    user = os.geteuid()
    if user not in (0, os.fstat(store_fd).st_uid):
        raise InputRefused(
            "the store belongs to another user", hint="run the command as its owner or as root"
        )
    if user and group not in (os.getegid(), *os.getgroups()):
        raise InputRefused(
            f"this user is not in the group {group}", hint="choose one of your groups (`id`)"
        )
    _open_to(store_fd, b".", group, 0o2775)
    for number, node in enumerate(walk(store_fd, vanishing=True)):
        progress.update(number, 0, 0)
        if stat.S_ISDIR(node.stat.st_mode):
            _open_to(node.dir_fd, node.name, group, 0o2775)
        elif node.path in _WRITTEN_IN_PLACE or node.path.startswith(b"log/"):
            _open_to(node.dir_fd, node.name, group, 0o664)
        elif stat.S_ISREG(node.stat.st_mode) and node.path.split(b"/")[0] not in _READ_ONLY:
            _open_to(node.dir_fd, node.name, group, 0o644)


def _open_to(dir_fd: int, name: bytes, group: int, mode: int) -> None:
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    # An entry of another user cannot be changed, but needs no change if that user shared it.
    if status.st_gid != group or stat.S_IMODE(status.st_mode) != mode:
        os.chown(name, -1, group, dir_fd=dir_fd, follow_symlinks=False)
        os.chmod(name, mode, dir_fd=dir_fd)
