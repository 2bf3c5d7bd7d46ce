"""The mounts that the kernel has, as proc(5) tells of them (/proc/self/mountinfo)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple


def mount_namespace() -> int:
    """Return the inode number of this process's mount namespace (namespaces(7))."""
    return os.stat("/proc/self/ns/mnt").st_ino


class MountLine(NamedTuple):
    """A mount as proc(5) shows it: what of its file system, where it is, and its source."""

    root: bytes
    point: bytes
    source: str


def source_of(path: bytes | str) -> str | None:
    """Return the source of the file system that is mounted at a path; None if there is none.

    A bind mount of the file system that the path is on is none. To find the source, the kernel
    lists all mounts, with all their layers; hence the question before.
    """
    found = mount_of(path) if os.path.ismount(path) else None
    return None if found is None else found.source


def mount_of(path: str | bytes) -> MountLine | None:
    """Return the mount that a path is on; None if there is no such path.

    Its number would not tell it from others: the kernel gives that to another mount as soon as it
    is free.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            (number,) = [line.split()[1] for line in file if line.startswith(b"mnt_id:")]
    finally:
        os.close(fd)
    return next(mount_lines(number), None)


def mount_lines(number: bytes = b"") -> Iterator[MountLine]:
    """Yield the mounts of this namespace, or the one with a number."""
    beginning = number and number + b" "
    # Read at once, since the kernel lists all layers of an overlay in its line.
    with open("/proc/self/mountinfo", "rb", buffering=1 << 18) as file:
        for line in file:
            if line.startswith(beginning):
                fields, _, more = line.partition(b" - ")
                _, _, _, root, point, *_ = fields.split(b" ")
                source = os.fsdecode(more.split(b" ")[1])
                yield MountLine(_unescaped(root), _unescaped(point), source)


def _unescaped(field: bytes) -> bytes:
    """Undo the octal escapes of space, tab, newline and backslash in mountinfo."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
