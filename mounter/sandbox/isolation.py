"""The description of a sandbox: its namespaces, capabilities, bind mounts and environment."""

from __future__ import annotations

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
"""The namespaces that a command may share with its caller, with their flags of unshare(2). Mounting
needs a user and a mount namespace, so those are never shared."""

CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
    "setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
    "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
    "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod",
    "lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog",
    "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
)  # fmt: skip
"""The names of capabilities(7) without `CAP_`; the index is the capability's number."""


class BadSandbox(CasError):
    """A sandbox names a namespace or capability that does not exist."""

    exit_code = ExitCode.USAGE


class Bind(NamedTuple):
    """A bind mount of the directory `source` at `target`; both paths are absolute."""

    source: bytes
    target: bytes
    writable: bool = True


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The isolation of a command.

    `binds` are bind mounts that the command sees. It has its own user, mount, PID, IPC and network
    namespaces, except those in `share` (keys of SHAREABLE_NAMESPACES). It runs as the caller, or
    with `map_root` as root of its user namespace, and keeps only the capabilities in `capabilities`
    (names of CAPABILITIES, or "all"). `directory` is the working directory as seen from inside, and
    `environment` holds the variables; None stands for the caller's.
    """

    binds: tuple[Bind, ...] = ()
    share: frozenset[str] = frozenset()
    map_root: bool = False
    capabilities: tuple[str, ...] = ()
    directory: bytes | None = None
    environment: Mapping[bytes, bytes] | None = None

    def __post_init__(self) -> None:
        """Refuse unknown names. Raises BadSandbox."""
        unknown = self.share - SHAREABLE_NAMESPACES.keys()
        if unknown:
            raise BadSandbox(
                f"cannot share a namespace of this name: {min(unknown)!r}",
                hint=f"use one of {', '.join(SHAREABLE_NAMESPACES)}",
            )
        for name in self.capabilities:
            if _capability_name(name) not in (*CAPABILITIES, "all"):
                raise BadSandbox(
                    f"unknown capability: {name!r}",
                    hint="use a name from capabilities(7), or `all`",
                )

    @property
    def namespaces(self) -> int:
        """The namespaces that are not shared, as flags of unshare(2)."""
        own = [flag for name, flag in SHAREABLE_NAMESPACES.items() if name not in self.share]
        return sum(own, syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)

    @property
    def kept_capabilities(self) -> int:
        """The capabilities that the command keeps, as a bit set by number."""
        names = set(map(_capability_name, self.capabilities))
        return sum(1 << number for number, name in enumerate(CAPABILITIES) if names & {name, "all"})


def _capability_name(name: str) -> str:
    return name.lower().removeprefix("cap_")
