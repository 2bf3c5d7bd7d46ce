"""The file system of a sandboxed command: sysroots and bind mounts at their targets.

All of this happens in a mount namespace that belongs to one command.
"""

from __future__ import annotations

import contextlib
import os
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
_SYSROOT_ATTRIBUTES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


class MountSpec(NamedTuple):
    """The mount to make at a plan's target: its overlay, or the linked tree at the path `tree`.

    `source` is the mount's source as mount(8) shows it.
    """

    plan: Plan
    source: str
    tree: bytes | None = None


@dataclass(slots=True)
class RootFs:
    """The mounts of one command, in this process's mount namespace."""

    _mount_points: list[MountPoint] = field(default_factory=list)
    _replicas: list[bytes] = field(default_factory=list)

    def assemble(self, sysroots: Sequence[MountSpec], binds: Sequence[Bind]) -> None:
        """Mount everything, outer paths before inner ones.

        Enters the working directory again, since a mount may cover it now.
        Raises InputRefused, StrategyRefused, CasError, OSError.
        """
        working_directory = None
        with contextlib.suppress(FileNotFoundError):
            working_directory = os.getcwdb()
        # Slave: later mounts outside appear here, but mounts made here never appear outside.
        syscalls.mount(None, b"/", None, syscalls.MS_SLAVE | syscalls.MS_REC)
        with contextlib.ExitStack() as stack:
            mounts: list[tuple[bytes, MountSpec | int]] = [
                (spec.plan.target, spec) for spec in sysroots
            ]
            # Cloned first, so that a bind mount never shows a sysroot mounted over its source.
            for bind in binds:
                mounts.append((bind.target, stack.enter_context(_clone(bind))))
            for target, mount in sorted(mounts, key=lambda entry: entry[0].count(b"/")):
                self._make_mount_point(target)
                if isinstance(mount, MountSpec):
                    _attach(mount)
                else:
                    with open_directory(target) as directory:
                        syscalls.move_mount(mount, directory, target)
        # Opened again by path: a later replica may have cloned an earlier one.
        for replica in self._replicas:
            with open_directory(replica) as fd:
                syscalls.mount_setattr(fd, _READ_ONLY)
        if working_directory is not None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.chdir(working_directory)

    def release(self) -> None:
        """Unmount, and remove mount points that were made for this command and are unused."""
        for point in reversed(self._mount_points):
            while True:
                try:
                    syscalls.umount(point.path, syscalls.MNT_DETACH)
                except OSError:  # EINVAL: it is not a mount point any more
                    break
            point.release()

    def _make_mount_point(self, target: bytes) -> None:
        """Make a directory to mount at, unless it exists.

        If the directory above is read-only or the root, it is covered by a tmpfs that shows all its
        entries, and the new directory is made there.
        """
        existing = nearest_directory(target)
        if existing in self._replicas:
            os.makedirs(target, exist_ok=True)
        elif existing != target and (existing == b"/" or not os.access(existing, os.W_OK)):
            _replicate(existing)
            self._replicas.append(existing)
            os.makedirs(target)
        else:
            self._mount_points.append(MountPoint(target))


def _attach(spec: MountSpec) -> None:
    plan = spec.plan
    with open_directory(plan.target) as directory:
        if spec.tree is None:
            with upper_directories(plan, spec.source, directory) as upper:
                attach_overlay(plan, spec.source, directory, upper)
            return
        fd = syscalls.open_tree(spec.tree)
        try:
            attributes = _SYSROOT_ATTRIBUTES if plan.writable else _SYSROOT_ATTRIBUTES | _READ_ONLY
            syscalls.mount_setattr(fd, attributes)
            syscalls.move_mount(fd, directory, plan.target)
        finally:
            os.close(fd)


@contextlib.contextmanager
def _clone(bind: Bind) -> Iterator[int]:
    """Yield a descriptor of a bind mount that is not attached yet."""
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
    """Cover a directory with a tmpfs that shows all its entries, as bind mounts.

    Entries that this user may not clone are left out: the user cannot open them either.
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
            mount_point = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
            stack.callback(os.close, mount_point)
            syscalls.move_mount(clone, mount_point, os.path.join(directory, name))


def _become_root(root: int, directory: bytes) -> None:
    """Make the mount open at `root` the root directory; covers `directory` for a moment."""
    with open_directory(directory) as covered:
        syscalls.move_mount(root, covered, directory)
    os.chdir(directory)
    # With "." twice, pivot_root(2) stacks the old root over the new one, where it is detached.
    syscalls.pivot_root(b".", b".")
    syscalls.umount(b".", syscalls.MNT_DETACH)
    os.chdir("/")
