"""What a sandboxed command shares with the rest of the machine, and what it does not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cas.errors import CasError, ExitCode
from mounter import syscalls

SHAREABLE_NAMESPACES = {
    "ipc": syscalls.CLONE_NEWIPC,
    "net": syscalls.CLONE_NEWNET,
    "pid": syscalls.CLONE_NEWPID,
}
"""The namespaces that a command may share with its caller. User and mount namespace are what
makes the mounts possible, and are never shared."""

CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
    "setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
    "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
    "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod",
    "lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog",
    "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
)  # fmt: skip
"""The names of capabilities(7) without `CAP_`, each at the place of its number."""

_SIOCGIFFLAGS = 0x8913  # netdevice(7), linux/sockios.h
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


class BadSandbox(CasError):
    """A sandbox is described by something that does not exist."""

    exit_code = ExitCode.USAGE


class Bind(NamedTuple):
    """The directory `source` is to be at `target` too; both are absolute paths."""

    source: bytes
    target: bytes
    writable: bool = True


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How a command is to be run.

    `binds` are directories that it sees at other paths. It has user, mount, PID, IPC and network
    namespaces of its own, without those that `share` names (keys of SHARED). It runs as the
    caller, or as root of its own user namespace with `map_root`, with no capabilities but
    `capabilities` (names of CAPABILITIES, or "all"), in the directory `directory` as seen from
    inside (None: the caller's) with the variables `environment` (None: the caller's).
    """

    binds: tuple[Bind, ...] = ()
    share: frozenset[str] = frozenset()
    map_root: bool = False
    capabilities: tuple[str, ...] = ()
    directory: bytes | None = None
    environment: Mapping[bytes, bytes] | None = None

    def __post_init__(self) -> None:
        """Refuse names that mean nothing. Raises BadSandbox."""
        if self.share - SHAREABLE_NAMESPACES.keys():
            raise BadSandbox(
                f"no namespace to share: {min(self.share - SHAREABLE_NAMESPACES.keys())!r}",
                hint=f"one of {', '.join(SHAREABLE_NAMESPACES)}",
            )
        for name in self.capabilities:
            if _capability_name(name) not in (*CAPABILITIES, "all"):
                raise BadSandbox(
                    f"no such capability: {name!r}", hint="capabilities(7) lists them; or `all`"
                )

    @property
    def namespaces(self) -> int:
        """The flags of unshare(2) for the namespaces of its own."""
        own = [flag for name, flag in SHAREABLE_NAMESPACES.items() if name not in self.share]
        return sum(own, syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)

    @property
    def kept_capabilities(self) -> int:
        """The capabilities that the command keeps, as a bit set."""
        names = set(map(_capability_name, self.capabilities))
        return sum(1 << number for number, name in enumerate(CAPABILITIES) if names & {name, "all"})


def _capability_name(name: str) -> str:
    return name.lower().removeprefix("cap_")


def map_ids(pid: int, *, map_root: bool) -> None:
    """Give a process's user namespace the ids of this one: all for root, else one's own.

    With `map_root`, one's own id is 0 in there. Root without capabilities, as within another
    sandbox, is treated like others. Raises OSError.
    """
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            _map_all_ids(pid)
            return
    # Whoever may not set gids at will must first give up setgroups(2) (user_namespaces(7)).
    _write_proc(pid, "setgroups", "deny")
    for kind, own in (("uid", os.geteuid()), ("gid", os.getegid())):
        _write_proc(pid, f"{kind}_map", f"{0 if map_root else own} {own} 1\n")


def _map_all_ids(pid: int) -> None:
    for kind in ("uid", "gid"):
        with open(f"/proc/self/{kind}_map") as file:
            ranges = [line.split() for line in file]
        lines = [f"{inside} {inside} {count}\n" for inside, _, count in ranges]
        _write_proc(pid, f"{kind}_map", "".join(lines))


def _write_proc(pid: int, name: str, text: str) -> None:
    with open(f"/proc/{pid}/{name}", "w") as file:
        file.write(text)


def drop_privileges(sandbox: Sandbox) -> None:
    """Leave this process, for good, only the capabilities that a sandbox keeps. Raises OSError."""
    syscalls.limit_capabilities(sandbox.kept_capabilities)
    syscalls.no_new_privileges()


def bring_up_loopback() -> None:
    """Make 127.0.0.1 work in a new network namespace, where `lo` is down. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sH14x", b"lo", 0)  # struct ifreq
        name, flags = struct.unpack("16sH14x", fcntl.ioctl(handle, _SIOCGIFFLAGS, request))
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sH14x", name, flags | _IFF_UP))
