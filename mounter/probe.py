"""Probes the features of this machine that the mounter uses, by trying them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cas.disk.layout import EMPTY_LAYERS
from cas.errors import CasError
from cas.system.directories import open_directory
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.remove_tree import remove_tree
from mounter import syscalls
from mounter.overlay.overlay import attach_overlay
from mounter.plan import Plan, StrategyRefused

_FICLONE = 0x40049409  # linux/fs.h
_MAX_LINKS = 70_000
"""Hard links that are tried: more than ext4 allows (65,000); btrfs and XFS allow far more."""
_PROGRESS_BATCH_LINKS = 1000


class ProbeResult(NamedTuple):
    """The result of a probe: whether the feature works, with the reason or limit in `detail`."""

    name: str
    works: bool
    detail: str


def probe(directory: bytes, progress: Progress = NO_PROGRESS) -> Iterator[ProbeResult]:
    """Try the features that the mounter uses, on the file system of a writable `directory`.

    Leaves nothing behind. Takes about a second, since it counts hard links; `progress` counts them
    too. Raises OSError.
    """
    own_mounts = syscalls.CLONE_NEWNS
    namespaces = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS
    yield try_in_child("user namespaces", lambda: syscalls.unshare(namespaces))
    yield try_in_child("new mount API", _try_fsopen)
    name = f"probe-{os.getpid()}-{os.urandom(8).hex()}".encode()
    with open_directory(directory) as parent:
        os.mkdir(name, dir_fd=parent)
        try:
            with open_directory(name, parent) as fd:
                os.mkdir(b"empty", dir_fd=fd)
                for empty in EMPTY_LAYERS:
                    os.mkdir(empty, dir_fd=fd)
                plan = Plan(os.path.join(directory, name), (), b"")
                yield try_in_child(
                    "overlay with privileges", lambda: _try_overlay(plan, own_mounts)
                )
                yield try_in_child(
                    "overlay in a user namespace", lambda: _try_overlay(plan, namespaces)
                )
                yield _try_reflink(fd)
                yield _count_links(fd, progress)
        finally:
            remove_tree(name, parent)


def try_in_child(name: str, attempt: Callable[[], None]) -> ProbeResult:
    """Make an attempt in a child process, since it changes the process; return the result."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            attempt()
            os.write(writing, b"works")
        except (OSError, CasError, StrategyRefused) as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        outcome = file.read()
    os.waitpid(child, 0)
    works = outcome == "works"
    return ProbeResult(name, works, "" if works else outcome)


def _try_fsopen() -> None:
    try:
        os.close(syscalls.fsopen(b"overlay"))
    except PermissionError:
        # The call exists, but needs privileges; a user namespace has them.
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        os.close(syscalls.fsopen(b"overlay"))


def _try_overlay(plan: Plan, namespaces: int) -> None:
    """Mount an overlay in new namespaces; must run in a child process."""
    syscalls.unshare(namespaces)
    syscalls.mount(None, b"/", None, syscalls.MS_SLAVE | syscalls.MS_REC)
    with open_directory(os.path.join(plan.store, b"empty")) as target:  # in the new namespace
        attach_overlay(plan, "cas", target)


def _try_reflink(directory: int) -> ProbeResult:
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
    source, target = (os.open(name, flags, 0o600, dir_fd=directory) for name in ("from", "to"))
    try:
        os.write(source, b"x" * 65536)
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        return ProbeResult("reflink", False, f"{error.strerror}; copies share no blocks")
    finally:
        os.close(source)
        os.close(target)
    return ProbeResult("reflink", True, "")


def _count_links(directory: int, progress: Progress) -> ProbeResult:
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory))
    os.mkdir("links", dir_fd=directory)
    for count in range(2, _MAX_LINKS):
        if count % _PROGRESS_BATCH_LINKS == 0:
            progress.update(count, _MAX_LINKS, 0)
        try:
            os.link("file", f"links/{count}", src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            if error.errno == errno.EMLINK:
                return ProbeResult("hard links", True, f"{count - 1} to a file")
            return ProbeResult("hard links", False, str(error.strerror))
    return ProbeResult("hard links", True, f"more than {_MAX_LINKS - 1} to a file")
