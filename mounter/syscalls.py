"""System calls that Python's standard library lacks, one function each.

Every function raises OSError with the errno, the name of the call and, if there is one, the path.
Constants are from the kernel's uapi headers (linux/mount.h, linux/sched.h, linux/prctl.h,
linux/inotify.h). System calls added since Linux 5.1 have the same numbers on all architectures
except alpha.
"""

from __future__ import annotations

import ctypes
import os

AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWUSER = 0x10000000
FSCONFIG_CMD_CREATE = 6
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
IN_DONT_FOLLOW = 0x02000000
IN_ISDIR = 0x40000000
IN_ONLYDIR = 0x01000000
IN_OPEN = 0x20
IN_Q_OVERFLOW = 0x4000
IN_UNMOUNT = 0x2000
MNT_DETACH = 2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_RDONLY = 0x1
MOVE_MOUNT_BENEATH = 0x200
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MS_NODEV = 0x4
MS_NOSUID = 0x2
MS_RDONLY = 0x1
MS_REC = 0x4000
MS_SLAVE = 0x80000
OPEN_TREE_CLONE = 0x1
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_CAP_AMBIENT_RAISE = 2
PR_SET_NO_NEW_PRIVS = 38
PR_SET_PDEATHSIG = 1
RENAME_EXCHANGE = 2
UMOUNT_NOFOLLOW = 8

_CLOEXEC = 0x1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_AT_FDCWD = -100
_MAX_CAPABILITIES = 64  # bits of the capability sets of capget(2)
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_MOUNT_SETATTR = 442
_CAPABILITY_VERSION_3 = 0x20080522

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


class _CapabilityHeader(ctypes.Structure):
    """struct __user_cap_header_struct of capget(2)."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    """Two struct __user_cap_data_struct of capget(2): the low 32 bits, then the high ones."""

    _fields_ = tuple(
        (f"{name}_{half}", ctypes.c_uint32)
        for half in ("low", "high")
        for name in ("effective", "permitted", "inheritable")
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
    """Start configuring a mount; return a descriptor of its configuration (Linux 5.2)."""
    return _checked(_syscall(_SYS_FSOPEN, filesystem, _CLOEXEC), "fsopen", filesystem)


def fsconfig(fd: int, command: int, key: bytes | None = None, value: bytes | None = None) -> None:
    """Set an option of a mount configuration, or execute a command on it (Linux 5.2)."""
    _checked(_syscall(_SYS_FSCONFIG, fd, command, key, value, 0), "fsconfig", value or key)


def fsmount(fd: int, attributes: int) -> int:
    """Make the configured mount, not attached yet; return its descriptor (Linux 5.2)."""
    return _checked(_syscall(_SYS_FSMOUNT, fd, _CLOEXEC, attributes), "fsmount")


def open_tree(path: bytes, *, recursive: bool = False) -> int:
    """Clone the mount that holds `path`, with `path` as its root; return a descriptor (Linux 5.2).

    With `recursive`, mounts below `path` are cloned too.
    """
    flags = OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _checked(_syscall(_SYS_OPEN_TREE, _AT_FDCWD, path, flags), "open_tree", path)


def mount_setattr(fd: int, attributes: int, *, recursive: bool = False) -> None:
    """Add attributes to the mount open at `fd`; `recursive`: and to those below (Linux 5.12)."""
    attr = _MountAttr(attr_set=attributes)
    size = ctypes.sizeof(attr)
    pointer = ctypes.addressof(attr)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _checked(_syscall(_SYS_MOUNT_SETATTR, fd, b"", flags, pointer, size), "mount_setattr")


def move_mount(fd: int, target_fd: int, target: bytes, *, beneath: bool = False) -> None:
    """Attach the mount open at `fd` to the directory open at `target_fd`.

    With `beneath`, it is attached below the mount whose root that directory is (Linux 6.5).
    `target` is only used in the error message.
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    flags |= MOVE_MOUNT_BENEATH if beneath else 0
    _checked(_syscall(_SYS_MOVE_MOUNT, fd, b"", target_fd, b"", flags), "move_mount", target)


def mount(
    source: bytes | None,
    target: bytes,
    filesystem: bytes | None,
    flags: int,
    options: bytes | None = None,
) -> None:
    """Mount with the old mount(2), which silently cuts `options` after 4095 bytes."""
    result = _libc.mount(source, target, filesystem, ctypes.c_ulong(flags), options)
    _checked(result, "mount", target)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """Make `new_root` the root mount, and move the old one to `put_old` (pivot_root(2))."""
    result = _libc.pivot_root(new_root, put_old)
    _checked(result, "pivot_root", new_root)


def umount(target: bytes, flags: int = 0) -> None:
    """Unmount with umount2(2), without following a symbolic link."""
    _checked(_libc.umount2(target, flags | UMOUNT_NOFOLLOW), "umount2", target)


def unshare(flags: int) -> None:
    """Enter new namespaces with unshare(2). CLONE_NEWUSER needs a single-threaded process."""
    _checked(_libc.unshare(flags), "unshare")


def die_with_parent(signal: int) -> None:
    """Request `signal` for when the thread that forked this process ends (PR_SET_PDEATHSIG)."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal), 0, 0, 0), "prctl")


def no_new_privileges() -> None:
    """Prevent this process and its children from ever gaining privileges by execve(2)."""
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0), "prctl")


def limit_capabilities(keep: int) -> None:
    """Drop all capabilities outside the bit set `keep`, across execve(2) too.

    Those in `keep` survive execve(2) under any user id, as ambient ones (capabilities(7)).
    """
    for number in range(_MAX_CAPABILITIES):
        if not keep >> number & 1 and _prctl(PR_CAPBSET_DROP, number) < 0:
            break  # EINVAL: this kernel has no capability with a higher number
    low, high = keep & 0xFFFFFFFF, keep >> 32
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    sets = _CapabilitySets(low, low, low, high, high, high)
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capset")
    _checked(_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL), "prctl")
    for number in range(_MAX_CAPABILITIES):
        if keep >> number & 1:
            _checked(_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number), "prctl")


def swap_names(first: bytes, second: bytes, dir_fd: int) -> None:
    """Swap two names in the directory open at `dir_fd`, atomically (renameat2(2), Linux 3.15)."""
    result = _libc.renameat2(dir_fd, first, dir_fd, second, RENAME_EXCHANGE)
    _checked(result, "renameat2", second)


def inotify_init() -> int:
    """Return a new inotify descriptor, which is non-blocking (inotify(7))."""
    return _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify_init1")


def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    """Watch a file or directory; return the watch descriptor of its events (inotify(7))."""
    result = _libc.inotify_add_watch(fd, path, ctypes.c_uint32(mask))
    return _checked(result, "inotify_add_watch", path)


def _prctl(option: int, first: int, second: int = 0) -> int:
    return int(_libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), 0, 0))
