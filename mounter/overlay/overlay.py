"""The overlay strategy: one mount, merged by the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from cas.disk.layout import MOST_LAYERS
from cas.errors import StoreDamaged
from cas.system.text import quoted
from mounter import syscalls
from mounter.plan import Plan, StrategyRefused

_MAX_STRING_BYTES = 255  # that fsconfig(2) takes, see vfs_parse_fs_string in fs/fsopen.c
_MAX_OPTIONS_BYTES = 4095  # that mount(2) takes of a page; it cuts the rest without a word
_ATTRIBUTES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


class MountApiMissing(StrategyRefused):
    """The kernel lacks the new mount API, or `lowerdir+` in it (before Linux 6.5)."""


class Upper(NamedTuple):
    """The open directories that take the changes of a writable overlay (borrowed)."""

    upper_fd: int
    work_fd: int


def attach_overlay(plan: Plan, source: str, target_fd: int, upper: Upper | None = None) -> None:
    """Mount a plan's overlay at the directory open at `target_fd`.

    `source` is what mount(8) shows as the mount's source. Raises as `make_overlay` does.
    """
    try:
        made = make_overlay(plan, source, upper)
    except MountApiMissing as old:
        try:
            return _mount_by_options(plan, source, target_fd, upper)
        except StrategyRefused as refusal:
            raise StrategyRefused(f"{old}; by mount(2): {refusal}") from refusal
    try:
        syscalls.move_mount(made, target_fd, plan.target)
    except PermissionError as error:
        raise StrategyRefused(f"the kernel does not let this user mount ({error})") from error
    finally:
        os.close(made)


def make_overlay(plan: Plan, source: str = "cas", upper: Upper | None = None) -> int:
    """Make a plan's overlay mount, attached nowhere yet; return its descriptor.

    Layers go to the kernel one by one (`lowerdir+`, Linux 6.5), so their paths need no escapes
    and no room in the one page of options that mount(2) takes.

    Raises StrategyRefused with the kernel's reason, TooOld, StoreDamaged if a layer is missing.
    """
    _refuse_too_many_layers(plan)
    if upper is not None:
        _refuse_unknown_owners(plan)
    try:
        fd = syscalls.fsopen(b"overlay")
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise MountApiMissing("this kernel lacks the new mount API (ENOSYS)") from error
        raise StrategyRefused(_refusal_reason(error)) from error
    try:
        _set_option(fd, b"source", source.encode())
        for layer in plan.overlay_layers():
            _add_layer(fd, layer)
        for key, value in _upper_options(upper):
            _set_option(fd, key, value)
        return _create(fd, plan, writable=upper is not None)
    except OSError as error:
        reason = _refusal_reason(error, _kernel_messages(fd))
        if error.errno == errno.EINVAL:
            raise MountApiMissing(reason) from error
        raise StrategyRefused(reason) from error
    finally:
        os.close(fd)


def _create(fd: int, plan: Plan, *, writable: bool) -> int:
    if writable or plan.upper is not None:
        # Marks as user.* attributes, which a user namespace may set; the same for root, so that
        # both can use one upper directory (Linux 5.11).
        syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_FLAG, b"userxattr")
    if not writable:
        syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_FLAG, b"ro")
    syscalls.fsconfig(fd, syscalls.FSCONFIG_CMD_CREATE)
    return syscalls.fsmount(fd, _ATTRIBUTES | (0 if writable else syscalls.MOUNT_ATTR_RDONLY))


def _upper_options(upper: Upper | None) -> Iterator[tuple[bytes, bytes]]:
    if upper is not None:
        yield b"upperdir", f"/proc/self/fd/{upper.upper_fd}".encode()
        yield b"workdir", f"/proc/self/fd/{upper.work_fd}".encode()


def _refuse_too_many_layers(plan: Plan) -> None:
    if len(plan.layers) > MOST_LAYERS:
        raise StrategyRefused(
            f"overlayfs takes {MOST_LAYERS} layers at most, and these are {len(plan.layers)}"
        )


def _refuse_unknown_owners(plan: Plan) -> None:
    """Refuse to mount for changes what could not be changed.

    overlayfs copies a file with its owner before the first change; an owner that this user
    namespace does not know makes that fail (EOVERFLOW), and stat(2) shows it as the overflow id
    (user_namespaces(7)).
    """
    unknown = [
        _read_number("/proc/sys/kernel/overflowuid"),
        _read_number("/proc/sys/kernel/overflowgid"),
    ]
    for layer in plan.overlay_layers():
        found = os.stat(layer)
        if found.st_uid == unknown[0] or found.st_gid == unknown[1]:
            raise StrategyRefused(
                f"{quoted(layer)} could not be changed: its user or group is not known in here"
            )


def _read_number(path: str) -> int:
    with open(path) as file:
        return int(file.read())


def _set_option(fd: int, key: bytes, value: bytes) -> None:
    syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_STRING, key, value)


def _add_layer(fd: int, layer: bytes) -> None:
    if len(layer) <= _MAX_STRING_BYTES:
        try:
            _set_option(fd, b"lowerdir+", layer)
        except FileNotFoundError as error:
            raise _missing_layer(layer) from error
        return
    with _open_layer(layer) as directory:
        _set_option(fd, b"lowerdir+", f"/proc/self/fd/{directory}".encode())


@contextmanager
def _open_layer(layer: bytes) -> Iterator[int]:
    try:
        fd = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _missing_layer(layer) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _missing_layer(layer: bytes) -> StoreDamaged:
    return StoreDamaged(f"the layer {quoted(layer)} is missing")


def _mount_by_options(plan: Plan, source: str, target_fd: int, upper: Upper | None) -> None:
    """Mount by the option string of mount(2), as kernels before Linux 6.5 want it.

    All directories are opened, and named by the numbers of their descriptors as seen from
    /proc/self/fd: three or four bytes each, whatever their paths are.

    A child does it, since it has to go there.
    """
    with ExitStack() as stack:
        fds = [stack.enter_context(_open_layer(layer)) for layer in plan.overlay_layers()]
        options = b"lowerdir=" + b":".join(b"%d" % fd for fd in fds)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        if upper is None:
            flags |= syscalls.MS_RDONLY
        else:
            options += b",upperdir=%d,workdir=%d" % (upper.upper_fd, upper.work_fd)
        if upper is not None or plan.upper is not None:
            options += b",userxattr"
        if len(options) > _MAX_OPTIONS_BYTES:
            raise StrategyRefused("the names of the layers do not fit into a page of options")
        failed = _errno_of_child(
            lambda: syscalls.mount(source.encode(), b"%d" % target_fd, b"overlay", flags, options)
        )
    if failed == errno.EINVAL:
        raise StrategyRefused("overlayfs refuses the layers (EINVAL); the kernel's log says why")
    if failed:
        raise StrategyRefused(_refusal_reason(OSError(failed, os.strerror(failed))))


def _errno_of_child(mount: Callable[[], None]) -> int:
    """Do it in a child that has gone to /proc/self/fd; return the errno, 0 if it went well."""
    child = os.fork()
    if child == 0:
        code = errno.EIO
        try:
            os.chdir("/proc/self/fd")
            mount()
            code = 0
        except OSError as error:
            code = error.errno or code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _kernel_messages(fd: int) -> list[str]:
    """Read what the kernel has to say about a mount that failed, a line at a time."""
    found: list[str] = []
    while True:
        try:
            line = os.read(fd, 4096)
        except OSError:  # ENODATA: that was all
            return found
        found.append(line.decode(errors="replace").strip().removeprefix("e "))


def _refusal_reason(error: OSError, messages: Sequence[str] = ()) -> str:
    if error.errno == errno.EPERM:
        return "the kernel does not let this user mount (EPERM)"
    if error.errno == errno.ENODEV:
        return "this kernel has no overlayfs (ENODEV)"
    said = f" ({'; '.join(messages)})" if messages else ""
    where = f": {quoted(error.filename)}" if error.filename else ""
    return f"overlayfs refuses: {error.strerror}{where}{said}"
