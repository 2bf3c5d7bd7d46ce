"""Upper directories, which hold the changes of a writable overlay.

The kernel lets two overlays share an upper directory, which corrupts it. `DIR/lock` prevents that:
writers hold it exclusively, read-only users share it. It also names the last mount that outlived
its process. Since it is in the directory, it stays valid wherever that is moved or mounted.
"""

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
from cas.system.debug_log import debug
from cas.system.directories import open_directory
from cas.system.mountinfo import mount_namespace
from cas.system.paths import is_below, is_within
from cas.system.text import quoted
from mounter import syscalls
from mounter.overlay.overlay import Upper
from mounter.plan import UPPER, Plan, StrategyRefused

_EXPECTED_NAMES = frozenset((b"lock", b"upper", b"work", b"lost+found"))
"""The names an upper directory may hold; `lost+found` if it is the root of a file system."""
_NOTE_BYTES = 1 << 16
"""The most that is read of a lock file's note."""
_LOCK_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""The lock file may come from anyone: neither follow a link nor wait for a FIFO."""


@contextlib.contextmanager
def upper_directories(plan: Plan, source: str, target_fd: int) -> Iterator[Upper | None]:
    """Yield the open directories for the changes of a plan's overlay; None if it is read-only.

    Changes to be kept are written to `upper/` in the plan's upper directory, which the caller has
    locked. Others are written to a tmpfs, whose source is `source` with
    `mount_records.CHANGES_SUFFIX`. It is mounted at the target, under the overlay: before Linux
    6.15 an upper directory must be on an attached mount.

    Raises StrategyRefused, OSError.
    """
    if not plan.writable:
        yield None
        return
    if plan.upper is None:
        _mount_tmpfs(plan.target, source + mount_records.CHANGES_SUFFIX, target_fd)
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
                # overlayfs makes work/work with mode 0, so that its owner could not delete it.
                with contextlib.suppress(OSError):
                    os.chmod(b"work", 0o700, dir_fd=work)
    except BaseException:
        if plan.upper is None:
            syscalls.umount(plan.target, syscalls.MNT_DETACH)
        raise


@contextlib.contextmanager
def upper_lock(plan: Plan, source: str | None = None) -> Iterator[None]:
    """`lock_upper` for the length of a `with` block; if that fails, undo what was made."""
    is_new = plan.upper is not None and not os.path.lexists(plan.upper)
    fd = lock_upper(plan, source)
    try:
        yield
    except BaseException:
        here = mount_namespace(), boot_id()
        if (
            fd is not None
            and source is not None
            and not mount_records.source_may_be_mounted((source,), *here)
        ):
            # A process in another namespace could not see that this mount was never made.
            os.ftruncate(fd, 0)
        if is_new and plan.upper is not None and os.listdir(plan.upper) == [b"lock"]:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(plan.upper, b"lock"))
                os.rmdir(plan.upper)
        raise
    finally:
        if fd is not None:
            os.close(fd)


def lock_upper(plan: Plan, source: str | None = None) -> int | None:
    """Make a plan's upper directory if it is missing, and lock it.

    The lock is exclusive if the plan is writable, else shared. `source` is that of a mount that
    will outlive this process; the lock file names it. Returns the descriptor that holds the lock
    until it is closed; None if the plan has no upper directory.

    Raises InUse, InputRefused, OSError.
    """
    if plan.upper is None:
        return None
    _refuse_unusable(plan)
    if not plan.writable:
        if source is not None:
            raise InputRefused(
                f"cannot mount the changes in {quoted(plan.upper)} read-only beyond this process",
                hint="use `run_plans` or `enter`, or make the plan writable",
            )
        return _open_lock(plan.upper, 0, fcntl.LOCK_SH)
    os.makedirs(plan.upper, exist_ok=True)
    fd = _open_lock(plan.upper, os.O_CREAT)
    debug("locked the upper directory %s", quoted(plan.upper))
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
    """Refuse an upper directory that `lock_upper` would refuse; change nothing. Raises the same."""
    _refuse_unusable(plan)
    if plan.upper is not None:
        with contextlib.suppress(FileNotFoundError):
            os.close(_open_lock(plan.upper, 0, fcntl.LOCK_EX if plan.writable else fcntl.LOCK_SH))


def _open_lock(upper: bytes, flags: int, lock: int = fcntl.LOCK_EX) -> int:
    """Open and lock the lock file of an upper directory that no mount uses; return the descriptor.

    Raises InUse, OSError.
    """
    path = os.path.join(upper, b"lock")
    try:
        fd = os.open(path, _LOCK_FLAGS | flags, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise _not_a_lock_file(path) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _not_a_lock_file(path)
        fcntl.flock(fd, lock | fcntl.LOCK_NB)
        _refuse_mounted(upper, os.pread(fd, _NOTE_BYTES, 0))
    except BlockingIOError as error:
        os.close(fd)
        raise InUse(
            f"the upper directory {quoted(upper)} is in use by another sysroot",
            hint="use another directory, or wait for that task to end",
        ) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _not_a_lock_file(path: bytes) -> InputRefused:
    hint = "remove it if it is safe to, or use another directory"
    return InputRefused(f"{quoted(path)} is not a regular file, so it cannot be locked", hint=hint)


def _refuse_unusable(plan: Plan) -> None:
    """Refuse a path that cannot be an upper directory. Raises InputRefused, OSError."""
    if plan.upper is None:
        return
    where = quoted(plan.upper)
    if is_within(plan.upper, plan.store) or is_below(plan.upper, plan.target):
        raise InputRefused(
            f"the upper directory {where} is inside the store or the sysroot",
            hint="use a directory outside of both",
        )
    if not os.path.lexists(plan.upper):
        return
    if not os.path.isdir(plan.upper):
        raise InputRefused(f"{where} is not a directory", hint="use a directory for the changes")
    if set(os.listdir(plan.upper)) - _EXPECTED_NAMES:
        raise InputRefused(
            f"{where} is not empty and not an upper directory", hint="use an empty or a new one"
        )


def clear_upper_note(upper: bytes, sources: Sequence[str]) -> None:
    """Erase the note in an upper directory if it names one of these mounts, which have ended.

    Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        fd = os.open(os.path.join(upper, b"lock"), _LOCK_FLAGS)
        try:
            source, *_ = parse(os.pread(fd, _NOTE_BYTES, 0))
            if source in sources:
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)


def _refuse_mounted(upper: bytes, note: bytes) -> None:
    """Refuse an upper directory if the mount that its note names may exist. Raises InUse."""
    with contextlib.suppress(ValueError, TypeError):
        source, namespace, boot = parse(note)
        if mount_records.source_may_be_mounted((source,), namespace, boot):
            raise InUse(
                f"the upper directory {quoted(upper)} is in use by a mount",
                hint="find it with `cas mounts`, and unmount it with `cas umount TARGET`",
            )


def _mount_tmpfs(target: bytes, source: str, target_fd: int) -> None:
    try:
        tmpfs = make_tmpfs(source)
    except PermissionError as error:
        raise StrategyRefused("the kernel does not let this user mount (EPERM)") from error
    except OSError as error:
        raise StrategyRefused(f"cannot make a tmpfs for the changes: {error.strerror}") from error
    try:
        syscalls.move_mount(tmpfs, target_fd, target)
    finally:
        os.close(tmpfs)


def make_tmpfs(source: str) -> int:
    """Make a tmpfs, not attached yet; return its descriptor. Raises OSError."""
    fd = syscalls.fsopen(b"tmpfs")
    try:
        syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_STRING, b"source", source.encode())
        syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_STRING, b"mode", b"755")
        syscalls.fsconfig(fd, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(fd, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV)
    finally:
        os.close(fd)
