"""Taking a linked tree away: what was made, and nothing else."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cas.errors import InUse
from cas.model.manifest import DIRECTORY
from cas.system import directories
from cas.system.directories import DirCursor, is_below, open_directory
from cas.system.mountinfo import mount_lines
from cas.system.oserrors import adding_path
from cas.system.progress import Progress, counted, no_progress
from cas.system.text import quoted
from mounter.linked.make import (
    PROGRESS_BATCH_NAMES,
    DirectoryPart,
    directory_parts,
    layer_directory,
    run_by_name_count,
)
from mounter.plan import Plan, TreeContent

_Stat = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""
_Part = tuple[bytes, list[DirectoryPart]]
"""One of what `_parts` returns."""


def remove_linked_tree(
    plan: Plan, content: TreeContent, root_fd: int, progress: Progress = no_progress
) -> None:
    """Take away what `make_tree` made in the directory open at `root_fd`, and nothing else.

    What was writable goes whole. `progress` gets names, directories too. Raises InUse, before
    anything is removed, if there is something that `make_tree` did not make.
    """
    if plan.writable:
        _refuse_mounts(plan.target)
        _empty(root_fd)
        return
    parts = _parts(plan, content)
    _refuse_foreign_in(plan, content, parts, root_fd)
    with DirCursor(root_fd) as cursor:
        for path in parts:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(cursor.at(path), 0o755)
    take = counted(progress, sum(map(_name_count, parts.items())))
    run_by_name_count(partial(_unlink_parts, root_fd), parts.items(), take, weight=_name_count)
    del parts[b""]
    with DirCursor(root_fd) as cursor:
        for path in reversed(parts):
            parent, _, name = path.rpartition(b"/")
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(name, dir_fd=cursor.at(parent))


def refuse_foreign_files(plan: Plan, content: TreeContent, root_fd: int) -> None:
    """Refuse a tree that holds something which `make_tree` did not make. Raises InUse."""
    _refuse_foreign_in(plan, content, _parts(plan, content), root_fd)


def _parts(plan: Plan, content: TreeContent) -> dict[bytes, list[DirectoryPart]]:
    """Return every directory of the tree, its root first, with what layers bring to it."""
    parts: dict[bytes, list[DirectoryPart]] = {b"": []}
    parts |= {path: [] for path, (node, _) in content.items() if node == DIRECTORY}
    for share in directory_parts(plan, content):
        parts[share.path].append(share)
    return parts


def _refuse_foreign_in(
    plan: Plan, content: TreeContent, parts: Mapping[bytes, list[DirectoryPart]], root_fd: int
) -> None:
    _refuse_mounts(plan.target)
    foreign: list[bytes] = []
    with open_directory(plan.store) as store:
        work = partial(_find_foreign, content, store, root_fd)
        run_by_name_count(work, parts.items(), foreign.append, weight=_name_count)
    if foreign:
        foreign.sort()
        shown = ", ".join(quoted(path) for path in foreign[:5])
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise InUse(
            f"{quoted(plan.target)} holds what `cas mount` did not put there: {shown}{more}",
            hint="move that away and try again; nothing was removed",
        )


def _refuse_mounts(target: bytes) -> None:
    """Refuse a tree that others have mounted something in, or over. Raises InUse.

    What is there is not ours, even if it is the store's own, and nothing else tells it from that.
    """
    for line in mount_lines():
        if is_below(line.point, target):
            raise InUse(
                f"something else is mounted at {quoted(line.point)}",
                hint="unmount that and try again; nothing was removed",
            )


def _name_count(part: _Part) -> int:
    return 1 + sum(len(share.entries) for share in part[1])


def _find_foreign(
    content: TreeContent,
    store_fd: int,
    root_fd: int,
    parts: Sequence[_Part],
    give: Callable[[bytes], None],
) -> None:
    """Give what is in directories of the tree, and is not what `make_tree` made."""
    with DirCursor(root_fd) as root:
        for directory, its_shares in parts:
            try:
                fd = root.at(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue  # what is in its place is in the directory above
            stored = _stored_files(its_shares, store_fd)
            prefix = directory and directory + b"/"
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    found = entry.stat(follow_symlinks=False)
                    node, _ = content.get(prefix + name, (b"", 0))
                    if not _is_as_made(found, node, name, fd, stored):
                        give(prefix + name)


def _is_as_made(
    found: os.stat_result, node: bytes, name: bytes, fd: int, stored: Mapping[bytes, _Stat]
) -> bool:
    if node == DIRECTORY:
        return stat.S_ISDIR(found.st_mode)
    if node.startswith(b"l"):
        return stat.S_ISLNK(found.st_mode) and os.readlink(name, dir_fd=fd) == node[2:]
    if not node or not stat.S_ISREG(found.st_mode):
        return False
    if name not in stored:  # the store has lost it, which must not keep the tree
        return found.st_size == int(node.split(b" ")[1])
    return (found.st_size, found.st_mtime_ns) == stored[name]


def _stored_files(its_shares: Sequence[DirectoryPart], store_fd: int) -> dict[bytes, _Stat]:
    """Return size and time of the store's own files. Raises OSError."""
    found: dict[bytes, _Stat] = {}
    for share in its_shares:
        lost = contextlib.suppress(FileNotFoundError, NotADirectoryError)
        with lost, layer_directory(share, store_fd) as fd:
            for name in share.entries:
                with contextlib.suppress(FileNotFoundError):
                    its = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    found[name] = its.st_size, its.st_mtime_ns
    return found


def _empty(root_fd: int) -> None:
    with os.scandir(root_fd) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            directories.remove_tree(os.fsencode(entry.name), root_fd)
        else:
            os.unlink(entry.name, dir_fd=root_fd)


def _unlink_parts(root_fd: int, parts: Sequence[_Part], give: Callable[[int], None]) -> None:
    gone = 0
    with DirCursor(root_fd) as cursor:
        for directory, its_shares in parts:
            with contextlib.suppress(FileNotFoundError):
                fd = cursor.at(directory)
                for name in (name for share in its_shares for name in share.entries):
                    with contextlib.suppress(FileNotFoundError), adding_path(fd):
                        os.unlink(name, dir_fd=fd)
            gone += _name_count((directory, its_shares))
            if gone >= PROGRESS_BATCH_NAMES:
                give(gone)
                gone = 0
    if gone:
        give(gone)
