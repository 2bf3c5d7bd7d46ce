"""Upper directories: what takes the changes of a writable overlay."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Sequence

from cas.disk import mount_records
from cas.disk.boot import boot_id
from cas.errors import InputRefused, InUse
from cas.model.strict_json import parse
from cas.system.directories import is_below, is_within, open_directory
from cas.system.mountinfo import mount_namespace
from cas.system.text import quoted
from mounter import syscalls
from mounter.overlay.overlay import Upper
from mounter.plan import UPPER, Plan, StrategyRefused

_EXPECTED_NAMES = frozenset((b"lock", b"upper", b"work", b"lost+found"))
"""What an upper directory may hold; the last, because it may be a file system of its own."""


@contextlib.contextmanager
def upper_directories(plan: Plan, source: str, target_fd: int) -> Iterator[Upper | None]:
    """Give the directories that take the changes of a plan's overlay, for a `with` block.

    None if it is read-only. Changes that are thrown away go to a tmpfs, mounted at the target
    under the name `source` and `mount_records.CHANGES`, where the overlay is to cover it: no kernel
    before 6.15 takes an upper directory of a mount that is attached nowhere. Those that stay go to
    `upper/` in the plan's directory, which has to be claimed.

    Raises StrategyRefused, OSError.
    """
    if not plan.writable:
        yield None
        return
    if plan.upper is None:
        _mount_tmpfs(plan.target, source + mount_records.CHANGES, target_fd)
        directory = plan.target
    else:
        directory = plan.upper
    try:
        with open_directory(directory) as fd:
            for name in (UPPER, b"work"):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=fd)
            with open_directory(UPPER, fd) as upper, open_directory(b"work", fd) as work:
                yield Upper(upper, work)
                # overlayfs makes it without any rights, and then its owner cannot delete it.
                with contextlib.suppress(OSError):
                    os.chmod(b"work", 0o700, dir_fd=work)
    except BaseException:
        if plan.upper is None:
            syscalls.umount(plan.target, syscalls.MNT_DETACH)
        raise


@contextlib.contextmanager
def upper_lock(plan: Plan, source: str | None = None) -> Iterator[None]:
    """`lock_upper` for the length of a `with` block, if the plan has an upper directory."""
    made = plan.upper is not None and not os.path.lexists(plan.upper)
    fd = lock_upper(plan, source)
    try:
        yield
    except BaseException:
        here = mount_namespace(), boot_id()
        if (
            fd is not None
            and source is not None
            and not mount_records.source_may_live((source,), *here)
        ):
            os.ftruncate(fd, 0)  # others would believe it, who cannot see that nothing came of it
        if made and plan.upper is not None and os.listdir(plan.upper) == [b"lock"]:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(plan.upper, b"lock"))
                os.rmdir(plan.upper)
        raise
    finally:
        if fd is not None:
            os.close(fd)


def lock_upper(plan: Plan, source: str | None = None) -> int | None:
    """Make a plan's upper directory, and keep every other user of it away.

    The kernel would accept two overlays with one upper directory, and corrupt it; only those that
    show what is in it, and change nothing, may be many. A file in it,
    which goes with it wherever it is moved or seen, is locked by who is at work now, and names
    the `source` of a mount that is to outlive its maker. Returns a descriptor, which holds the
    lock until it is closed; None if the plan has no upper directory.

    Raises InUse, InputRefused, OSError.
    """
    if plan.upper is None:
        return None
    _refuse_unusable(plan)
    if not plan.writable:
        if source is not None:
            raise InputRefused(
                f"the changes in {quoted(plan.upper)} would be shown after this process has ended",
                hint="let a command show them, or a process that enters the plan",
            )
        return _open_lock(plan.upper, 0, fcntl.LOCK_SH)
    os.makedirs(plan.upper, exist_ok=True)
    fd = _open_lock(plan.upper, os.O_CREAT)
    try:
        os.ftruncate(fd, 0)
        if source is not None:
            note = json.dumps([source, mount_namespace(), boot_id()])
            os.pwrite(fd, note.encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def refuse_locked_upper(plan: Plan) -> None:
    """Refuse what `lock_upper` would refuse, and change nothing. Raises what that raises."""
    _refuse_unusable(plan)
    if plan.upper is not None:
        with contextlib.suppress(FileNotFoundError):
            os.close(_open_lock(plan.upper, 0, fcntl.LOCK_EX if plan.writable else fcntl.LOCK_SH))


def _open_lock(upper: bytes, flags: int, lock: int = fcntl.LOCK_EX) -> int:
    """Open and lock the lock file of an upper directory that no mount uses.

    Raises InUse, OSError.
    """
    path = os.path.join(upper, b"lock")
    safely = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # it may be anybody's
    try:
        fd = os.open(path, safely | flags, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise _not_a_lock_file(path) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _not_a_lock_file(path)
        fcntl.flock(fd, lock | fcntl.LOCK_NB)
        _refuse_mounted(upper, os.pread(fd, 1 << 16, 0))
    except BlockingIOError as error:
        os.close(fd)
        raise InUse(
            f"the upper directory {quoted(upper)} is in use by another sysroot",
            hint="give another directory, or wait for that task to end",
        ) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _not_a_lock_file(path: bytes) -> InputRefused:
    hint = "no command makes that: look who did, or give another directory"
    return InputRefused(f"{quoted(path)} is not a regular file", hint=hint)


def _refuse_unusable(plan: Plan) -> None:
    """Refuse a plan's upper directory if it cannot be one. Raises InputRefused, OSError."""
    if plan.upper is None:
        return
    where = quoted(plan.upper)
    if is_within(plan.upper, plan.store) or is_below(plan.upper, plan.target):
        raise InputRefused(
            f"the upper directory {where} is in the store or in the sysroot",
            hint="give a directory elsewhere",
        )
    if not os.path.lexists(plan.upper):
        return
    if not os.path.isdir(plan.upper):
        raise InputRefused(f"{where} is not a directory", hint="give a directory for the changes")
    if set(os.listdir(plan.upper)) - _EXPECTED_NAMES:
        raise InputRefused(
            f"{where} is not empty, and no directory for changes", hint="give an empty or a new one"
        )


def clear_upper_note(upper: bytes, sources: Sequence[str]) -> None:
    """Note that the mounts of these sources have ended, which used an upper directory.

    Raises OSError.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        fd = os.open(os.path.join(upper, b"lock"), flags)
        try:
            source, *_ = parse(os.pread(fd, 1 << 16, 0))
            if source in sources:
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)


def _refuse_mounted(upper: bytes, note: bytes) -> None:
    """Refuse an upper directory if the mount that a note names may be there. Raises InUse."""
    with contextlib.suppress(ValueError, TypeError):
        source, namespace, boot = parse(note)
        if mount_records.source_may_live((source,), namespace, boot):
            raise InUse(
                f"the upper directory {quoted(upper)} is in use by a mount",
                hint="`cas mounts` shows which; `cas umount TARGET` takes it away",
            )


def _mount_tmpfs(target: bytes, source: str, target_fd: int) -> None:
    try:
        made = make_tmpfs(source)
    except PermissionError as error:
        raise StrategyRefused("the kernel does not let this user mount (EPERM)") from error
    except OSError as error:
        raise StrategyRefused(f"there is no tmpfs for the changes: {error.strerror}") from error
    try:
        syscalls.move_mount(made, target_fd, target)
    finally:
        os.close(made)


def make_tmpfs(source: str) -> int:
    """Make a tmpfs, attached nowhere yet; return its descriptor. Raises OSError."""
    fd = syscalls.fsopen(b"tmpfs")
    try:
        syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_STRING, b"source", source.encode())
        syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_STRING, b"mode", b"755")
        syscalls.fsconfig(fd, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(fd, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV)
    finally:
        os.close(fd)
