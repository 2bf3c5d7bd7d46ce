"""The system calls that Python's standard library lacks, each as one function.

Every function raises OSError with the errno, the name of the call and, where there is one, the
path. Constants are those of the kernel's uapi headers (linux/mount.h, linux/sched.h,
linux/prctl.h). The numbers of calls since Linux 5.1 are the same on all architectures but alpha.
"""

from __future__ import annotations

import ctypes
import os

AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWUSER = 0x10000000
FSCONFIG_CMD_CREATE = 6
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
MNT_DETACH = 2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_RDONLY = 0x1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MS_REC = 0x4000
MS_SLAVE = 0x80000
OPEN_TREE_CLONE = 0x1
PR_SET_PDEATHSIG = 1
UMOUNT_NOFOLLOW = 8

_CLOEXEC = 0x1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttr(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int, call: str, path: bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        where = None if path is None else os.fsdecode(path)
        raise OSError(number, f"{call}: {os.strerror(number)}", where)
    return result


def _syscall(number: int, *arguments: int | bytes | ctypes.Structure | None) -> int:
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(_libc.syscall(ctypes.c_long(number), *converted))


def fsopen(filesystem: bytes) -> int:
    """Begin a mount; return the descriptor of its configuration (Linux 5.2)."""
    return _checked(_syscall(_SYS_FSOPEN, filesystem, _CLOEXEC), "fsopen", filesystem)


def fsconfig(fd: int, command: int, key: bytes | None = None, value: bytes | None = None) -> None:
    """Set one option of a mount that was begun, or carry out a command on it."""
    _checked(_syscall(_SYS_FSCONFIG, fd, command, key, value, 0), "fsconfig", value or key)


def fsmount(fd: int, attributes: int) -> int:
    """Make the configured mount; return its descriptor, which is attached nowhere yet."""
    return _checked(_syscall(_SYS_FSMOUNT, fd, _CLOEXEC, attributes), "fsmount")


def open_tree(path: bytes) -> int:
    """Clone the mount that `path` is on, with `path` as its root (Linux 5.2)."""
    flags = OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    return _checked(_syscall(_SYS_OPEN_TREE, -100, path, flags), "open_tree", path)


def mount_setattr(fd: int, attributes: int) -> None:
    """Add attributes to the mount open at `fd` (Linux 5.12)."""
    attr = _MountAttr(attr_set=attributes)
    size = ctypes.sizeof(attr)
    pointer = ctypes.addressof(attr)
    _checked(_syscall(_SYS_MOUNT_SETATTR, fd, b"", AT_EMPTY_PATH, pointer, size), "mount_setattr")


def move_mount(fd: int, target_fd: int, target: bytes) -> None:
    """Attach the mount open at `fd` to the directory open at `target_fd`.

    `target` is for the message.
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _checked(_syscall(_SYS_MOVE_MOUNT, fd, b"", target_fd, b"", flags), "move_mount", target)


def mount(source: bytes | None, target: bytes, filesystem: bytes | None, flags: int) -> None:
    """The old mount(2), for what has no descriptors: propagation, and procfs."""
    result = _libc.mount(source, target, filesystem, ctypes.c_ulong(flags), None)
    _checked(result, "mount", target)


def umount(target: bytes, flags: int = 0) -> None:
    """umount2(2), not following a symbolic link."""
    _checked(_libc.umount2(target, flags | UMOUNT_NOFOLLOW), "umount2", target)


def unshare(flags: int) -> None:
    """unshare(2). CLONE_NEWUSER wants a process with one thread."""
    _checked(_libc.unshare(flags), "unshare")


def die_with_parent(signal: int) -> None:
    """Ask for `signal` when the thread that forked this process ends (PR_SET_PDEATHSIG)."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal), 0, 0, 0), "prctl")
