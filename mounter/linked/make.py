"""The hardlink and copy strategies: a directory that is made of what is in the store.

All processors make it, and take it away; each a share of its directories.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

from cas.disk.layout import layer_path
from cas.errors import CasError
from cas.model.manifest import DIRECTORY
from cas.system.directories import DirCursor, open_directory, shortened_path
from cas.system.progress import Progress, counted, no_progress
from cas.system.text import quoted
from mounter.linked.copy_file import copy_file
from mounter.plan import Plan, Strategy, StrategyRefused, TreeContent

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
MIN_NAMES_PER_WORKER = 2000
"""How many names are made or removed in the time that is worth a process."""
PROGRESS_BATCH_NAMES = 1000
"""How many names are made or removed before that is told."""
_LINK_REFUSALS = {
    errno.EXDEV: "the store is on another file system, or at another mount of it",
    errno.EPERM: "the store's files may not be linked by this user or on this file system",
}
_SYMLINK_LINK_ERRNOS = (errno.EINVAL, errno.ENOENT, *_LINK_REFUSALS, errno.EMLINK)
"""Why a symbolic link is made anew: the layer has something else there, or nothing, or may not be
linked to. (EINVAL is readlink(2) of what is no symbolic link.)"""


class DirectoryPart(NamedTuple):
    """What a layer brings to the directory `path` of a tree: names with their nodes.

    `layer` is its path in the store; directories are no part of this.
    """

    path: bytes
    layer: bytes
    entries: dict[bytes, bytes]


def directory_parts(plan: Plan, content: TreeContent) -> list[DirectoryPart]:
    """Return all that a plan's content has besides directories."""
    found: dict[tuple[bytes, int], DirectoryPart] = {}
    layers = [layer_path(tree) for tree in plan.layers]
    for path, (node, number) in content.items():
        if node != DIRECTORY:
            parent, _, name = path.rpartition(b"/")
            share = found.get((parent, number))
            if share is None:
                share = found[parent, number] = DirectoryPart(parent, layers[number], {})
            share.entries[name] = node
    return list(found.values())


@contextmanager
def layer_directory(share: DirectoryPart, store_fd: int) -> Iterator[int]:
    """Open, for a `with` block, the directory of a layer that a share is from. Raises OSError.

    By its path, not step by step: of a deep tree, there would be twice as many open at once.
    """
    whole = os.path.join(share.layer, share.path) if share.path else share.layer
    with shortened_path(whole, store_fd) as (path, fd), open_directory(path, fd) as directory:
        yield directory


def run_by_name_count(
    work: Callable[[Sequence[_Item], Callable[[_Result], None]], None],
    items: Iterable[_Item],
    take: Callable[[_Result], None],
    *,
    weight: Callable[[_Item], int],
) -> None:
    """Do `work` on all processors, weighed by names; see `cas.system.workers.run_parallel`."""
    from cas.system.workers import run_parallel

    run_parallel(work, items, take, weight=weight, least=MIN_NAMES_PER_WORKER)


def refuse_writable(plan: Plan, strategy: Strategy) -> None:
    """Refuse a writable plan that a linked tree cannot be. Raises StrategyRefused."""
    if plan.upper is not None:
        raise StrategyRefused("an upper directory works with overlay only")
    if plan.writable and strategy is not Strategy.COPY:
        raise StrategyRefused("what can be written to must not be linked to the store")


def make_linked_tree(
    plan: Plan,
    strategy: Strategy,
    content: TreeContent,
    root_fd: int,
    progress: Progress = no_progress,
) -> None:
    """Make a plan's tree in the empty directory open at `root_fd`, by HARDLINK or COPY.

    Files are read-only (0444, 0555), and directories too (0555) unless the plan is writable.
    `progress` gets all but directories. Raises StrategyRefused if the first file shows that links
    are impossible, or the plan cannot be carried out so; what fails later raises CasError.
    """
    refuse_writable(plan, strategy)
    directories = [path for path, (node, _) in content.items() if node == DIRECTORY]
    parts = directory_parts(plan, content)
    try:
        with open_directory(plan.store) as store:
            if strategy is Strategy.HARDLINK:
                _try_to_link(parts, store, root_fd)
            with DirCursor(root_fd) as cursor:
                for path in directories:
                    parent, _, name = path.rpartition(b"/")
                    os.mkdir(name, 0o700, dir_fd=cursor.at(parent))
            take = counted(progress, len(content) - len(directories))
            run_by_name_count(
                partial(_fill_directories, strategy, store, root_fd),
                parts,
                take,
                weight=_name_count,
            )
        with DirCursor(root_fd) as cursor:
            for path in (*directories, b""):
                os.fchmod(cursor.at(path), 0o755 if plan.writable else 0o555)
    except OSError as error:
        where, what = quoted(plan.target), error.strerror
        raise CasError(f"cannot make {where}: {what}: {quoted(error.filename or b'')}") from error


def _try_to_link(parts: Sequence[DirectoryPart], store_fd: int, root_fd: int) -> None:
    """Link the first file, for a moment. Raises StrategyRefused, OSError."""
    for share in parts:
        name = next((n for n, node in share.entries.items() if not node.startswith(b"l")), None)
        if name is None:
            continue
        with layer_directory(share, store_fd) as source:
            try:
                os.link(name, name, src_dir_fd=source, dst_dir_fd=root_fd)
            except OSError as error:
                if error.errno in _LINK_REFUSALS:
                    raise StrategyRefused(_LINK_REFUSALS[error.errno]) from error
                if error.errno != errno.EMLINK:
                    error.filename = os.path.join(share.layer, share.path, name)
                    raise
            else:
                os.unlink(name, dir_fd=root_fd)
            return


def _name_count(share: DirectoryPart) -> int:
    return len(share.entries)


def _fill_directories(
    strategy: Strategy,
    store_fd: int,
    root_fd: int,
    parts: Sequence[DirectoryPart],
    give: Callable[[int], None],
) -> None:
    made = 0
    place = copy_file if strategy is Strategy.COPY else _link
    with DirCursor(root_fd) as root:
        for share in parts:
            with layer_directory(share, store_fd) as source:
                target = root.at(share.path)
                for name, node in share.entries.items():
                    try:
                        if not node.startswith(b"l"):
                            place(name, source, target)
                        elif strategy is Strategy.COPY or not _link_symlink(
                            name, node, source, target
                        ):
                            os.symlink(node[2:], name, dir_fd=target)
                    except OSError as error:
                        lost = share.layer if isinstance(error, FileNotFoundError) else b""
                        error.filename = os.path.join(lost, share.path, name)
                        raise
            made += len(share.entries)
            if made >= PROGRESS_BATCH_NAMES:
                give(made)
                made = 0
    if made:
        give(made)


def _link(name: bytes, source_fd: int, target_fd: int) -> None:
    try:
        os.link(name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    except OSError as error:
        # Of this file alone: 65,000 links on ext4; another user's (proc(5), protected_hardlinks).
        if error.errno not in (errno.EMLINK, errno.EPERM):
            raise
        copy_file(name, source_fd, target_fd)


def _link_symlink(name: bytes, node: bytes, source_fd: int, target_fd: int) -> bool:
    """Link a symbolic link of the layer, which needs no inode; False if that cannot be."""
    try:
        if os.readlink(name, dir_fd=source_fd) != node[2:]:
            return False
        os.link(name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _SYMLINK_LINK_ERRNOS:
            raise
        return False
    return True
