"""The file system as a sandboxed command sees it: sysroots and directories at their places.

All of this happens in a mount namespace that belongs to one command.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cas.errors import InputRefused
from cas.system.directories import open_directory
from cas.system.text import quoted
from mounter import syscalls
from mounter.overlay.overlay import attach_overlay
from mounter.overlay.upper import make_tmpfs, upper_directories
from mounter.plan import Plan
from mounter.sandbox.isolation import Bind
from mounter.targets import MountPoint, nearest_directory

_READ_ONLY = syscalls.MOUNT_ATTR_RDONLY
_SYSROOT = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


class MountSpec(NamedTuple):
    """What is to be at a plan's target: its overlay, or the linked tree `tree`.

    `source` is what mount(8) shows as the mount's source.
    """

    plan: Plan
    source: str
    tree: bytes | None = None


@dataclass(slots=True)
class RootFs:
    """The mounts of one command, made in this process's mount namespace."""

    _points: list[MountPoint] = field(default_factory=list)
    _replicas: list[bytes] = field(default_factory=list)

    def assemble(self, sysroots: Sequence[MountSpec], binds: Sequence[Bind]) -> None:
        """Mount everything, outer paths before inner ones.

        The working directory is looked up again, since it may be below a mount point now, or
        hidden by a mount. Raises InputRefused, StrategyRefused, CasError, OSError.
        """
        here = None
        with contextlib.suppress(FileNotFoundError):
            here = os.getcwdb()
        # Mounts made here must not be seen outside; those made outside may be seen here.
        syscalls.mount(None, b"/", None, syscalls.MS_SLAVE | syscalls.MS_REC)
        with contextlib.ExitStack() as stack:
            places: list[tuple[bytes, MountSpec | int]] = [(p.plan.target, p) for p in sysroots]
            for bind in binds:  # from what is there before anything is covered
                places.append((bind.target, stack.enter_context(_cloned(bind))))
            for target, what in sorted(places, key=lambda place: place[0].count(b"/")):
                self._make_mount_point(target)
                if isinstance(what, MountSpec):
                    _attach(what)
                else:
                    with open_directory(target) as directory:
                        syscalls.move_mount(what, directory, target)
        for replica in self._replicas:  # by path: one made later may have taken in others
            with open_directory(replica) as fd:
                syscalls.mount_setattr(fd, _READ_ONLY)
        if here is not None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.chdir(here)

    def release(self) -> None:
        """Unmount, and remove the directories that were made for it, once nobody uses them."""
        for point in reversed(self._points):
            while True:
                try:
                    syscalls.umount(point.path, syscalls.MNT_DETACH)
                except OSError:  # EINVAL: nothing is mounted there any more
                    break
            point.release()

    def _make_mount_point(self, target: bytes) -> None:
        """Make sure that there is a directory to mount at.

        Where none can be made, or the root directory would get a new entry, the directory that
        would hold it is replaced by a tmpfs that has all its entries.
        """
        there = nearest_directory(target)
        if there in self._replicas:
            os.makedirs(target, exist_ok=True)
        elif there != target and (there == b"/" or not os.access(there, os.W_OK)):
            _replicate(there)
            self._replicas.append(there)
            os.makedirs(target)
        else:
            self._points.append(MountPoint(target))


def mount_proc() -> None:
    """Show the processes of this PID namespace in /proc; say so if the kernel refuses."""
    try:
        flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
        syscalls.mount(b"proc", b"/proc", b"proc", flags)  # equal to the MS_ flags of these names
    except PermissionError:
        print(
            "cas: the command sees the processes of others in /proc: the kernel gives it none of "
            "its own where parts of that are hidden, as in a container",
            file=sys.stderr,
        )


def _attach(placed: MountSpec) -> None:
    plan = placed.plan
    with open_directory(plan.target) as directory:
        if placed.tree is None:
            with upper_directories(plan, placed.source, directory) as upper:
                attach_overlay(plan, placed.source, directory, upper)
            return
        made = syscalls.open_tree(placed.tree)
        try:
            attributes = _SYSROOT if plan.writable else _SYSROOT | _READ_ONLY
            syscalls.mount_setattr(made, attributes)
            syscalls.move_mount(made, directory, plan.target)
        finally:
            os.close(made)


@contextlib.contextmanager
def _cloned(bind: Bind) -> Iterator[int]:
    if not os.path.isdir(bind.source):
        raise InputRefused(
            f"{quoted(bind.source)} is not a directory", hint="give a directory to --bind"
        )
    fd = syscalls.open_tree(bind.source, recursive=True)
    try:
        if not bind.writable:
            syscalls.mount_setattr(fd, _READ_ONLY, recursive=True)
        yield fd
    finally:
        os.close(fd)


def _replicate(directory: bytes) -> None:
    """Cover a directory with a tmpfs in which all its entries appear.

    Entries that this user may not even clone, it could not have used either.
    """
    with contextlib.ExitStack() as stack:
        clones: list[tuple[bytes, bool, int]] = []
        links: list[tuple[bytes, bytes]] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                path = os.path.join(directory, os.fsencode(entry.name))
                if entry.is_symlink():
                    links.append((os.fsencode(entry.name), os.readlink(path)))
                    continue
                with contextlib.suppress(PermissionError, FileNotFoundError):
                    fd = syscalls.open_tree(path, recursive=True)
                    stack.callback(os.close, fd)
                    clones.append((os.fsencode(entry.name), entry.is_dir(), fd))
        root = make_tmpfs("cas")
        stack.callback(os.close, root)
        if directory == b"/":
            _become_root(root, next(b"/" + name for name, is_dir, _ in clones if is_dir))
        else:
            with open_directory(directory) as covered:
                syscalls.move_mount(root, covered, directory)
        for name, target in links:
            os.symlink(target, name, dir_fd=root)
        for name, is_dir, clone in clones:
            if is_dir:
                os.mkdir(name, 0o755, dir_fd=root)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, dir_fd=root))
            place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
            stack.callback(os.close, place)
            syscalls.move_mount(clone, place, os.path.join(directory, name))


def _become_root(root: int, place: bytes) -> None:
    """Make the mount open at `root` the root directory; `place` is covered for a moment.

    With `.` twice, pivot_root(2) puts the old root over the new one, from where it is detached.
    """
    with open_directory(place) as covered:
        syscalls.move_mount(root, covered, place)
    os.chdir(place)
    syscalls.pivot_root(b".", b".")
    syscalls.umount(b".", syscalls.MNT_DETACH)
    os.chdir("/")
