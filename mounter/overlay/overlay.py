"""The overlay strategy: a mount whose layers the kernel merges."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from cas.disk.layout import MAX_LAYERS
from cas.errors import StoreDamaged
from cas.system.debug_log import debug
from cas.system.text import quoted
from mounter import syscalls
from mounter.plan import Plan, StrategyRefused

_MAX_STRING_BYTES = 255
"""The longest value that fsconfig(2) accepts (strndup_user() in fs/fsopen.c)."""
_MAX_OPTIONS_BYTES = 4095
"""The longest option string of mount(2), which silently cuts what exceeds one page. A cut list of
layers would mount a different tree."""
_ATTRIBUTES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


class MountApiMissing(StrategyRefused):
    """The kernel is older than Linux 6.5: it lacks the new mount API or its option `lowerdir+`."""


class Upper(NamedTuple):
    """The open directories for the changes of a writable overlay; the descriptors are borrowed."""

    upper_fd: int
    work_fd: int


def attach_overlay(plan: Plan, source: str, target_fd: int, upper: Upper | None = None) -> None:
    """Mount a plan's overlay at the directory open at `target_fd`.

    `source` is the mount's source as mount(8) shows it. Raises what `make_overlay` raises.
    """
    try:
        overlay = make_overlay(plan, source, upper)
    except MountApiMissing as old:
        debug("mounting by mount(2): %s", old)
        try:
            return mount_by_options(plan, source, target_fd, upper)
        except StrategyRefused as refusal:
            raise StrategyRefused(f"{old}; by mount(2): {refusal}") from refusal
    try:
        syscalls.move_mount(overlay, target_fd, plan.target)
    except PermissionError as error:
        raise StrategyRefused(f"the kernel does not let this user mount ({error})") from error
    finally:
        os.close(overlay)


def make_overlay(plan: Plan, source: str = "cas", upper: Upper | None = None) -> int:
    """Make a plan's overlay mount, not attached yet; return its descriptor.

    Layers are added one by one (`lowerdir+`, Linux 6.5), so their paths need no escaping and may
    exceed the one page of options that mount(2) accepts.

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
        # overlayfs marks changes with user.* attributes then, which a user namespace may set
        # (Linux 5.11). Root uses them as well, so that both can share an upper directory.
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
    if len(plan.layers) > MAX_LAYERS:
        raise StrategyRefused(
            f"overlayfs accepts at most {MAX_LAYERS} layers; there are {len(plan.layers)}"
        )


def _refuse_unknown_owners(plan: Plan) -> None:
    """Refuse layers whose owner is unknown in this user namespace. Raises StrategyRefused.

    overlayfs copies a file with its owner before the first change, which fails for an unknown owner
    (EOVERFLOW). stat(2) shows such an owner as the overflow id (user_namespaces(7)).
    """
    overflow_ids = [
        _read_number("/proc/sys/kernel/overflowuid"),
        _read_number("/proc/sys/kernel/overflowgid"),
    ]
    for layer in plan.overlay_layers():
        state = os.stat(layer)
        if state.st_uid == overflow_ids[0] or state.st_gid == overflow_ids[1]:
            raise StrategyRefused(
                f"{quoted(layer)} cannot take changes: its owner is unknown in this user namespace"
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


def mount_by_options(plan: Plan, source: str, target_fd: int, upper: Upper | None) -> None:
    """Mount by the option string of mount(2), for kernels before Linux 6.5.

    Each directory is opened, and named by the number of its descriptor relative to /proc/self/fd.
    That takes three or four bytes, however long the path is, so 500 layers fit into one page.
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
            raise StrategyRefused(
                "the list of layers does not fit into the page of options of mount(2)"
            )
        failure = _errno_of_child(
            lambda: syscalls.mount(source.encode(), b"%d" % target_fd, b"overlay", flags, options)
        )
    if failure == errno.EINVAL:
        raise StrategyRefused("overlayfs refuses the layers (EINVAL); see the kernel's log")
    if failure:
        raise StrategyRefused(_refusal_reason(OSError(failure, os.strerror(failure))))


def _errno_of_child(mount: Callable[[], None]) -> int:
    """Mount in a child whose working directory is /proc/self/fd; return the errno, or 0."""
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
    """Read the kernel's messages about a mount that failed (fsopen(2)), without their prefix."""
    messages: list[str] = []
    while True:
        try:
            line = os.read(fd, 4096)
        except OSError:  # ENODATA: there are no more
            return messages
        messages.append(line.decode(errors="replace").strip().removeprefix("e "))


def _refusal_reason(error: OSError, messages: Sequence[str] = ()) -> str:
    if error.errno == errno.EPERM:
        return "the kernel does not let this user mount (EPERM)"
    if error.errno == errno.ENODEV:
        return "this kernel has no overlayfs (ENODEV)"
    details = f" ({'; '.join(messages)})" if messages else ""
    where = f": {quoted(error.filename)}" if error.filename else ""
    return f"overlayfs refuses: {error.strerror}{where}{details}"
