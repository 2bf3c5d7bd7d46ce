"""The hardlink and copy strategies: fill a directory from the layers in the store."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial

from cas.errors import CasError
from cas.model.manifest import DIRECTORY
from cas.system.debug_log import debug
from cas.system.directories import DirCursor, open_directory
from cas.system.progress import NO_PROGRESS, Progress, counter
from cas.system.text import quoted
from mounter.linked.copy_file import copy_file
from mounter.linked.parts import (
    DirectoryPart,
    batched_counts,
    directory_parts,
    layer_directory,
    run_by_name_count,
)
from mounter.plan import Plan, Strategy, StrategyRefused, TreeContent

_LINK_REFUSALS = {
    errno.EXDEV: "the store is on another file system, or at another mount of it",
    errno.EPERM: "this user or file system may not link the store's files",
}
_SYMLINK_FALLBACK_ERRORS = (errno.EINVAL, errno.ENOENT, *_LINK_REFUSALS, errno.EMLINK)
"""Errors after which a symbolic link is created instead of linked: the layer's entry is missing,
is not a symbolic link (EINVAL of readlink(2)), or may not be linked."""


def refuse_writable(plan: Plan, strategy: Strategy) -> None:
    """Refuse a writable plan that a linked tree cannot carry out. Raises StrategyRefused."""
    if plan.upper is not None:
        raise StrategyRefused("an upper directory works with overlay only")
    if plan.writable and strategy is not Strategy.COPY:
        raise StrategyRefused("a writable tree must not be linked to the store")


def make_linked_tree(
    plan: Plan,
    strategy: Strategy,
    content: TreeContent,
    root_fd: int,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Make a plan's tree in the empty directory open at `root_fd`, by HARDLINK or COPY.

    Files are read-only (0444, 0555); so are directories (0555), unless the plan is writable.
    `progress` counts everything except directories. Raises StrategyRefused if the plan does not
    suit the strategy or the first file cannot be linked; later failures raise CasError.
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
            on_count = counter(progress, len(content) - len(directories))
            work = partial(_fill_directories, strategy, store, root_fd)
            run_by_name_count(work, parts, on_count, weight=_name_count)
        debug("made a tree of %d entries by %s", len(content), strategy.value)
        # Last, since a directory with mode 0555 takes no entries.
        with DirCursor(root_fd) as cursor:
            for path in (*directories, b""):
                os.fchmod(cursor.at(path), 0o755 if plan.writable else 0o555)
    except OSError as error:
        where = f"{quoted(plan.target)}: {error.strerror}: {quoted(error.filename or b'')}"
        raise CasError(f"cannot make {where}") from error


def _try_to_link(parts: Sequence[DirectoryPart], store_fd: int, root_fd: int) -> None:
    """Link the first file and remove the link again. Raises StrategyRefused, OSError."""
    for part in parts:
        name = next((n for n, node in part.entries.items() if not node.startswith(b"l")), None)
        if name is None:
            continue
        with layer_directory(part, store_fd) as source:
            try:
                os.link(name, name, src_dir_fd=source, dst_dir_fd=root_fd)
            except OSError as error:
                if error.errno in _LINK_REFUSALS:
                    raise StrategyRefused(_LINK_REFUSALS[error.errno]) from error
                # EMLINK concerns this file alone; `_link` copies it.
                if error.errno != errno.EMLINK:
                    error.filename = os.path.join(part.layer, part.path, name)
                    raise
            else:
                os.unlink(name, dir_fd=root_fd)
            return


def _name_count(part: DirectoryPart) -> int:
    return len(part.entries)


def _fill_directories(
    strategy: Strategy,
    store_fd: int,
    root_fd: int,
    parts: Sequence[DirectoryPart],
    emit_count: Callable[[int], None],
) -> None:
    """Make the entries of `parts` in directories that exist. Raises OSError."""
    make_file = copy_file if strategy is Strategy.COPY else _link
    with DirCursor(root_fd) as root, batched_counts(emit_count) as add_count:
        for part in parts:
            with layer_directory(part, store_fd) as source:
                target = root.at(part.path)
                for name, node in part.entries.items():
                    try:
                        if not node.startswith(b"l"):
                            make_file(name, source, target)
                        elif strategy is Strategy.COPY or not _link_symlink(
                            name, node, source, target
                        ):
                            os.symlink(node[2:], name, dir_fd=target)
                    except OSError as error:
                        missing_in = part.layer if isinstance(error, FileNotFoundError) else b""
                        error.filename = os.path.join(missing_in, part.path, name)
                        raise
            add_count(len(part.entries))


def _link(name: bytes, source_fd: int, target_fd: int) -> None:
    try:
        os.link(name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    except OSError as error:
        # Both concern this file alone: ext4 allows 65,000 links to one file (EMLINK), and another
        # user's file may be protected (EPERM; proc(5), protected_hardlinks).
        if error.errno not in (errno.EMLINK, errno.EPERM):
            raise
        copy_file(name, source_fd, target_fd)


def _link_symlink(name: bytes, node: bytes, source_fd: int, target_fd: int) -> bool:
    """Link to the layer's own symbolic link, which saves an inode; return whether that worked."""
    try:
        if os.readlink(name, dir_fd=source_fd) != node[2:]:
            return False
        os.link(name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _SYMLINK_FALLBACK_ERRORS:
            raise
        return False
    return True
