"""Directories to mount at: which are fit, and making them and taking them away again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence

from cas.errors import InputRefused, InUse
from cas.system.directories import DIRECTORY_FLAGS, is_within
from cas.system.signals import signals_blocked
from cas.system.text import quoted
from mounter.plan import Plan

_MAX_ATTEMPTS = 100
_MOUNT_POINT_MODE = stat.S_ISUID | stat.S_ISVTX | 0o755  # the first says nothing of a directory
StrPath = str | bytes | os.PathLike[str]


def absolute_target(target: StrPath) -> bytes:
    """Resolve all but the last part, so that a symbolic link as the target is seen as one."""
    if not os.fsencode(target):
        raise InputRefused("the path of the target is empty", hint="give a directory")
    path = os.path.abspath(os.fsencode(target))
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def resolve_target(target: StrPath) -> bytes:
    """Return where something is mounted, through a symbolic link that leads there."""
    path = absolute_target(target)
    return os.path.realpath(path) if os.path.islink(path) else path


def check_target(plan: Plan) -> None:
    """Refuse a target that is no directory, or is in, above or the same as the store.

    Raises InputRefused.
    """
    where = quoted(plan.target)
    if os.path.islink(plan.target):
        raise _symbolic_link(plan.target)
    if os.path.lexists(plan.target) and not os.path.isdir(plan.target):
        raise InputRefused(f"{where} is not a directory", hint="give a directory as the target")
    refuse_store_overlap(plan.target, plan.store)


def refuse_store_overlap(target: bytes, store: bytes) -> None:
    """Refuse a target that is in, above or the same as the store. Raises InputRefused."""
    if is_within(target, store) or is_within(store, target):
        raise InputRefused(
            f"{quoted(target)} and the store {quoted(store)} are one in the other",
            hint="give a target that is outside of the store and does not hold it",
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

    They have exactly `mode`, or without one what the umask leaves. Others may make and remove the
    same ones meanwhile. Raises OSError.
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
        except FileNotFoundError:  # its parent has just gone, or it is a place such as /proc
            if attempts > _MAX_ATTEMPTS:
                raise
        except FileExistsError as error:
            if os.path.lexists(missing) and not os.path.isdir(missing):
                raise _not_a_directory(missing) from error


def remove_directories(made: Sequence[bytes]) -> None:
    """Remove what `make_directories` made, as far as it is empty."""
    for directory in reversed(made):
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def refuse_nonempty(target: bytes) -> None:
    """Refuse a directory that is not empty. Raises InputRefused."""
    with os.scandir(target) as entries:
        if next(entries, None) is not None:
            raise InputRefused(
                f"{quoted(target)} is not empty", hint="give an empty or a new directory"
            )


@contextlib.contextmanager
def directory_lock(target: bytes) -> Iterator[None]:
    """Keep other processes from mounting at, or unmounting, a directory meanwhile.

    Raises InputRefused if it is a symbolic link, InUse.
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
            f"another process is mounting, unmounting or running at {quoted(target)}",
            hint="try again when it has ended",
        ) from error
    finally:
        os.close(fd)


def _symbolic_link(target: bytes) -> InputRefused:
    return InputRefused(
        f"{quoted(target)} is a symbolic link", hint="give the directory that it leads to"
    )


class MountPoint:
    """A directory that is there for as long as somebody mounts on it.

    Processes share it, each with a mount in its own namespace. To remove a directory takes away
    what is mounted on it elsewhere (Linux 3.18): so each holds a shared lock on it (flock(2)),
    and the last of them removes it, if one of them has made it. Its mode tells that, and that of
    the parents which were made too: it is one that nobody else gives.
    """

    def __init__(self, path: bytes) -> None:
        """Make the directory, with its parents, if it is not there. Raises OSError."""
        self.path = path
        while True:
            make_directories(path, mode=_MOUNT_POINT_MODE)
            try:
                self._fd = os.open(path, DIRECTORY_FLAGS)
            except FileNotFoundError:
                continue
            except PermissionError:
                self._fd = -1  # then it was there, and nobody of this user's made it
                return
            self._lock()
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(self._fd)):
                    return
            os.close(self._fd)

    def _lock(self) -> None:
        """Hold a shared lock; not one that somebody keeps for long on a directory of their own."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if _has_mount_point_mode(self._fd):
                fcntl.flock(self._fd, fcntl.LOCK_SH)

    def release(self) -> None:
        """Remove what was made, if nobody else needs it. It must not be mounted on here."""
        if self._fd < 0:
            return
        path, fd = self.path, self._fd
        with contextlib.suppress(OSError):  # somebody has a lock on it, or something in it
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
