"""Stores that a group of users shares.

The mode of a directory says so, as is usual for shared directories: it is writable by its group,
and has the set-group-id bit, by which the kernel gives what is made in it to that group (inode(7)).
What is made in such a directory of a store is shared in the same way.
"""

from __future__ import annotations

import os
import stat

from cas.errors import InputRefused
from cas.system.directories import open_directory, walk
from cas.system.progress import Progress

_SHARED = stat.S_ISGID | stat.S_IWGRP
_WRITTEN_IN_PLACE = (b"counts", b"index/data.mdb", b"reserve")
_CONTENTS = (b"layers", b"manifests", b"objects")


def is_shared(dir_fd: int) -> bool:
    """Tell whether a directory is one that a group shares."""
    return os.fstat(dir_fd).st_mode & _SHARED == _SHARED


def directory_mode(dir_fd: int) -> int:
    """Return the mode of a directory that everybody may read, made in the directory `dir_fd`."""
    return 0o2775 if is_shared(dir_fd) else 0o755


def share_new(fd: int, dir_fd: int) -> None:
    """Let the group use a file or directory just made in `dir_fd`, whatever the umask is.

    If `dir_fd` is not shared, the umask decides. Raises OSError.
    """
    if is_shared(dir_fd):
        os.fchmod(fd, 0o2775 if stat.S_ISDIR(os.fstat(fd).st_mode) else 0o664)


def make_subdirectory(name: bytes, dir_fd: int) -> None:
    """Make a directory in `dir_fd` for whoever may use that one. Raises OSError."""
    os.mkdir(name, 0o755, dir_fd=dir_fd)
    with open_directory(name, dir_fd) as made:
        share_new(made, dir_fd)


def give_to_owner(name: bytes, store_fd: int) -> None:
    """Let what root makes in a store belong to whom the store belongs. Raises OSError."""
    if os.geteuid() == 0:
        owner = os.fstat(store_fd)
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=store_fd, follow_symlinks=False)


def share(store_fd: int, group: int, progress: Progress) -> None:
    """Let the group with this id share a store.

    The directories come from the outermost to the innermost: what others make meanwhile gets the
    new mode from its parent, or from here. `progress` gets files, of nobody knows how many. Raises
    InputRefused, OSError.
    """
    user = os.geteuid()
    if user not in (0, os.fstat(store_fd).st_uid):
        raise InputRefused(
            "the store belongs to another user", hint="its owner, or root, can let a group share it"
        )
    if user and group not in (os.getegid(), *os.getgroups()):
        raise InputRefused(
            f"this user is not in the group {group}", hint="name one of yours (`id` tells them)"
        )
    _open_to(store_fd, b".", group, 0o2775)
    for number, node in enumerate(walk(store_fd, vanishing=True)):
        progress.update(number, 0, 0)
        if stat.S_ISDIR(node.stat.st_mode):
            _open_to(node.dir_fd, node.name, group, 0o2775)
        elif node.path in _WRITTEN_IN_PLACE or node.path.startswith(b"log/"):
            _open_to(node.dir_fd, node.name, group, 0o664)
        elif stat.S_ISREG(node.stat.st_mode) and node.path.split(b"/")[0] not in _CONTENTS:
            _open_to(node.dir_fd, node.name, group, 0o644)


def _open_to(dir_fd: int, name: bytes, group: int, mode: int) -> None:
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if found.st_gid != group or stat.S_IMODE(found.st_mode) != mode:  # else it may be another's
        os.chown(name, -1, group, dir_fd=dir_fd, follow_symlinks=False)
        os.chmod(name, mode, dir_fd=dir_fd)
