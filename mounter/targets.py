"""Target directories: checking, making, locking and removing them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence

from cas.errors import InputRefused, InUse
from cas.system.debug_log import debug
from cas.system.directories import DIRECTORY_FLAGS
from cas.system.paths import is_within
from cas.system.signals import signals_blocked
from cas.system.text import quoted
from mounter.plan import Plan

_MAX_ATTEMPTS = 100
"""Attempts to create a directory that another process keeps removing."""
_MOUNT_POINT_MODE = stat.S_ISUID | stat.S_ISVTX | 0o755
"""Marks a directory that a run made to mount at. The set-user-ID bit has no effect on directories,
so no other code uses this mode."""
StrPath = str | bytes | os.PathLike[str]


def absolute_target(target: StrPath) -> bytes:
    """Return an absolute path of which all but the last component is resolved.

    So a symbolic link at the target itself is recognized. Raises InputRefused.
    """
    if not os.fsencode(target):
        raise InputRefused("the target's path is empty", hint="give a directory")
    path = os.path.abspath(os.fsencode(target))
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def resolve_target(target: StrPath) -> bytes:
    """Return the absolute path of a mount, which may be given by a symbolic link to it."""
    path = absolute_target(target)
    return os.path.realpath(path) if os.path.islink(path) else path


def check_target(plan: Plan) -> None:
    """Refuse a target that is not a directory, or overlaps the store.

    Raises InputRefused.
    """
    where = quoted(plan.target)
    if os.path.islink(plan.target):
        raise _symbolic_link(plan.target)
    if os.path.lexists(plan.target) and not os.path.isdir(plan.target):
        raise InputRefused(f"{where} is not a directory", hint="give a directory as the target")
    refuse_store_overlap(plan.target, plan.store)


def refuse_store_overlap(target: bytes, store: bytes) -> None:
    """Refuse a target inside, above or equal to the store. Raises InputRefused."""
    if is_within(target, store) or is_within(store, target):
        raise InputRefused(
            f"the target {quoted(target)} overlaps the store {quoted(store)}",
            hint="give a target outside the store that does not contain it",
        )


def nearest_directory(path: bytes) -> bytes:
    """Return an absolute path, or the innermost directory above it, that exists.

    Raises InputRefused if a file is in the way.
    """
    nearest = path
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        raise _not_a_directory(nearest)
    return nearest


def _not_a_directory(path: bytes) -> InputRefused:
    return InputRefused(f"{quoted(path)} is not a directory", hint="give a path below a directory")


def make_directories(path: bytes, mode: int | None = None) -> list[bytes]:
    """Make a directory and its missing parents; return those made, outermost first.

    They have exactly `mode`; without it, the umask decides. Other processes may make and remove the
    same directories at the same time. Raises InputRefused, OSError.
    """
    made: list[bytes] = []
    try:
        _make_missing(path, made, mode)
    except BaseException:
        remove_directories(made)
        raise
    return made


def _make_missing(path: bytes, made: list[bytes], mode: int | None) -> None:
    attempts = 0
    while not os.path.isdir(path):
        attempts += 1
        missing = path
        while not os.path.isdir(os.path.dirname(missing)):
            missing = os.path.dirname(missing)
        try:
            with signals_blocked():
                os.mkdir(missing)
                made.append(missing)
                if mode is not None:
                    os.chmod(missing, mode)
        except FileNotFoundError:  # the parent was just removed, or is a place such as /proc
            if attempts > _MAX_ATTEMPTS:
                raise
        except FileExistsError as error:
            if os.path.lexists(missing) and not os.path.isdir(missing):
                raise _not_a_directory(missing) from error


def remove_directories(made: Sequence[bytes]) -> None:
    """Remove the directories that `make_directories` made and that are empty."""
    for directory in reversed(made):
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def refuse_nonempty(target: bytes) -> None:
    """Refuse a directory with entries. Raises InputRefused, OSError."""
    with os.scandir(target) as entries:
        if next(entries, None) is not None:
            raise InputRefused(
                f"{quoted(target)} is not empty", hint="give an empty or a new directory"
            )


@contextlib.contextmanager
def directory_lock(target: bytes) -> Iterator[None]:
    """Lock a directory for a `with` block, so that only this process mounts or unmounts there.

    Raises InputRefused (it is a symbolic link), InUse, OSError.
    """
    try:
        fd = os.open(target, DIRECTORY_FLAGS)
    except NotADirectoryError as error:
        raise _symbolic_link(target) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InUse(
            f"another process is mounting, unmounting or using {quoted(target)}",
            hint="try again when that has ended",
        ) from error
    finally:
        os.close(fd)


def _symbolic_link(target: bytes) -> InputRefused:
    return InputRefused(
        f"{quoted(target)} is a symbolic link", hint="give the directory that it points to"
    )


class MountPoint:
    """A directory to mount at, which exists while any process uses it.

    Several processes can share it, each with a mount in its own namespace. Removing a directory
    unmounts what other namespaces have mounted on it (since Linux 3.18). So each process holds a
    shared lock on it (flock(2)), and the last one removes it with the parents that were made too.
    Only directories that a process made for this purpose are removed; their mode marks them.
    """

    def __init__(self, path: bytes) -> None:
        """Make the directory, with its parents, if it is missing; lock it. Raises OSError."""
        self.path = path
        while True:
            make_directories(path, mode=_MOUNT_POINT_MODE)
            try:
                self._fd = os.open(path, DIRECTORY_FLAGS)
            except FileNotFoundError:
                continue
            except PermissionError:
                # An unreadable directory cannot be one that a run of this user made.
                self._fd = -1
                return
            self._lock()
            # Another process may have removed the directory before it was locked.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(self._fd)):
                    return
            os.close(self._fd)

    def _lock(self) -> None:
        """Take a shared lock; give up if another program holds its own lock on its directory."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if _has_mount_point_mode(self._fd):
                debug("waiting for the lock on the mount point %s", quoted(self.path))
                fcntl.flock(self._fd, fcntl.LOCK_SH)

    def release(self) -> None:
        """Remove the directory if no other process uses it; nothing may be mounted on it here."""
        if self._fd < 0:
            return
        path, fd = self.path, self._fd
        with contextlib.suppress(OSError):  # another process has locked it, or it is not empty
            while _has_mount_point_mode(fd):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rmdir(path)
                path = os.path.dirname(path)
                os.close(fd)
                fd = -1
                fd = os.open(path, DIRECTORY_FLAGS)
        if fd >= 0:
            os.close(fd)


def _has_mount_point_mode(fd: int) -> bool:
    return stat.S_IMODE(os.fstat(fd).st_mode) == _MOUNT_POINT_MODE
