"""The mounts of this namespace, from /proc/self/mountinfo (proc(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple


def mount_namespace() -> int:
    """Return the inode number of this process's mount namespace (namespaces(7))."""
    return os.stat("/proc/self/ns/mnt").st_ino


class MountLine(NamedTuple):
    """A mount: `root`, a directory of the file system, is mounted at `point`.

    `device` is "MAJOR:MINOR", as in `st_dev`; `kind` is the type of the file system.
    """

    device: bytes
    root: bytes
    point: bytes
    kind: str
    source: str


def source_of(path: bytes | str) -> str | None:
    """Return the source of the file system that is mounted at a path; None if none is.

    A bind mount within the same file system does not count. Listing the mounts makes the kernel
    print all layers of all overlays, so ismount(3) is asked first.
    """
    mount = mount_of(path) if os.path.ismount(path) else None
    return None if mount is None else mount.source


def mount_of(path: str | bytes) -> MountLine | None:
    """Return the mount that a path is on; None if the path does not exist.

    The mount ID alone does not identify it: the kernel reuses the ID of an unmounted mount.
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


def diskless_file_system(device: int) -> str | None:
    """Return the type of the file system with the `st_dev` `device`; None if it has a disk."""
    if os.major(device) != 0:
        return None
    wanted = b"0:%d" % os.minor(device)
    return next((line.kind for line in mount_lines() if line.device == wanted), None)


def mount_lines(number: bytes = b"") -> Iterator[MountLine]:
    """Yield the mounts of this namespace, or only the one with the mount ID `number`."""
    beginning = number and number + b" "
    # A large buffer: the line of an overlay has all its layers.
    with open("/proc/self/mountinfo", "rb", buffering=1 << 18) as file:
        for line in file:
            if line.startswith(beginning):
                # The number of fields before " - " varies.
                fields, _, file_system = line.partition(b" - ")
                _, _, device, root, point, *_ = fields.split(b" ")
                kind, source, _ = map(os.fsdecode, file_system.split(b" ", 2))
                yield MountLine(device, _unescaped(root), _unescaped(point), kind, source)


def _unescaped(field: bytes) -> bytes:
    """Undo the octal escapes of space, tab, newline and backslash in mountinfo."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
