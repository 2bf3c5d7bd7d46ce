"""Sets up namespaces: ids, the loopback device, /proc and capabilities."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import sys

from mounter import syscalls
from mounter.sandbox.isolation import Sandbox

_SIOCGIFFLAGS = 0x8913  # netdevice(7), linux/sockios.h
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_IFREQ = struct.Struct("16sH14x")
"""struct ifreq of netdevice(7): the name of a device, and its flags."""

NO_NAMESPACES = "the kernel refuses namespaces here"


class NamespaceRefused(Exception):
    """The kernel refuses namespaces; nothing was done. The text says why."""


def map_ids(pid: int, *, map_root: bool) -> None:
    """Map this process's ids into the user namespace of process `pid`.

    Root maps all ids to themselves. Other users map their own id, to 0 with `map_root`, else to
    itself. Root without capabilities, as in another sandbox, counts as another user.
    Raises OSError.
    """
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            _map_all_ids(pid)
            return
    map_one_user(str(pid), os.geteuid(), os.getegid(), map_root=map_root)


def map_one_user(process: str, uid: int, gid: int, *, map_root: bool = False) -> None:
    """Map one user and group into the user namespace of /proc/`process`, as map_ids does.

    Raises OSError.
    """
    # Without CAP_SETGID, setgroups(2) must be denied before gid_map (user_namespaces(7)).
    _write_proc(process, "setgroups", "deny")
    _write_proc(process, "uid_map", f"{0 if map_root else uid} {uid} 1\n")
    _write_proc(process, "gid_map", f"{0 if map_root else gid} {gid} 1\n")


def _map_all_ids(pid: int) -> None:
    for kind in ("uid", "gid"):
        with open(f"/proc/self/{kind}_map") as file:
            ranges = [line.split() for line in file]
        lines = [f"{inside} {inside} {count}\n" for inside, _, count in ranges]
        _write_proc(str(pid), f"{kind}_map", "".join(lines))


def _write_proc(process: str, name: str, text: str) -> None:
    with open(f"/proc/{process}/{name}", "w") as file:
        file.write(text)


def bring_up_loopback() -> None:
    """Enable 127.0.0.1 in a new network namespace, where `lo` is down. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = fcntl.ioctl(handle, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        name, flags = _IFREQ.unpack(request)
        fcntl.ioctl(handle, _SIOCSIFFLAGS, _IFREQ.pack(name, flags | _IFF_UP))


def mount_proc() -> None:
    """Mount a /proc for this PID namespace; print a warning if the kernel refuses."""
    # The attributes have the same values as the MS_ flags of these names.
    flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    try:
        syscalls.mount(b"proc", b"/proc", b"proc", flags)
    except PermissionError:
        # mount_too_revealing() in fs/namespace.c: a container hides parts of the outer /proc.
        print(
            "cas: the command sees the processes of others in /proc: "
            "the kernel refuses a private /proc in this container",
            file=sys.stderr,
        )


def drop_privileges(sandbox: Sandbox) -> None:
    """Give up, for good, all capabilities except those a sandbox keeps. Raises OSError."""
    syscalls.limit_capabilities(sandbox.kept_capabilities)
    syscalls.no_new_privileges()
