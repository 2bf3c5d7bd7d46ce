"""The overlay strategy: one read-only mount, merged by the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from cas.errors import StoreDamaged
from cas.quoting import quoted
from mounter import syscalls
from mounter.plan import Plan, StrategyRefused

MOST_LAYERS = 500  # OVL_MAX_STACK of the kernel
_LONGEST_STRING = 255  # that fsconfig(2) takes, see vfs_parse_fs_string in fs/fsopen.c
_ATTRIBUTES = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


def make_overlay(plan: Plan, source: str = "cas") -> int:
    """Make a plan's overlay mount, attached nowhere yet; return its descriptor.

    `source` is what mount(8) shows as the mount's source.

    Layers go to the kernel one by one (`lowerdir+`, Linux 6.5), so their paths need no escapes
    and no room in the one page of options that mount(2) takes.

    Raises StrategyRefused with the kernel's reason, StoreDamaged if a layer is missing.
    """
    if len(plan.trees) > MOST_LAYERS:
        raise StrategyRefused(
            f"overlayfs takes {MOST_LAYERS} layers at most, and these are {len(plan.trees)}"
        )
    try:
        fd = syscalls.fsopen(b"overlay")
    except OSError as error:
        raise StrategyRefused(_reason(error)) from error
    try:
        _set(fd, b"source", source.encode())
        for layer in plan.overlay_layers():
            _add_layer(fd, layer)
        syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_FLAG, b"ro")
        syscalls.fsconfig(fd, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(fd, _ATTRIBUTES)
    except OSError as error:
        raise StrategyRefused(_reason(error, _messages(fd))) from error
    finally:
        os.close(fd)


def _set(fd: int, key: bytes, value: bytes) -> None:
    syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_STRING, key, value)


def _add_layer(fd: int, layer: bytes) -> None:
    if len(layer) <= _LONGEST_STRING:
        try:
            return _set(fd, b"lowerdir+", layer)
        except FileNotFoundError as error:
            raise StoreDamaged(f"the layer {quoted(layer)} is missing") from error
    directory = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _set(fd, b"lowerdir+", f"/proc/self/fd/{directory}".encode())
    finally:
        os.close(directory)


def _messages(fd: int) -> list[str]:
    """Read what the kernel has to say about a mount that failed, a line at a time."""
    found: list[str] = []
    while True:
        try:
            line = os.read(fd, 4096)
        except OSError:  # ENODATA: that was all
            return found
        found.append(line.decode(errors="replace").strip().removeprefix("e "))


def _reason(error: OSError, messages: Sequence[str] = ()) -> str:
    if error.errno == errno.EPERM:
        return "the kernel does not let this user mount (EPERM)"
    if error.errno == errno.ENODEV:
        return "this kernel has no overlayfs (ENODEV)"
    if error.errno == errno.ENOSYS:
        return "this kernel lacks the new mount API of Linux 5.2 (ENOSYS)"
    said = f" ({'; '.join(messages)})" if messages else ""
    where = f": {quoted(error.filename)}" if error.filename else ""
    return f"overlayfs refuses: {error.strerror}{where}{said}"
