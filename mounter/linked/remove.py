"""Removes linked trees, if they hold nothing but what `make_linked_tree` made."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cas.errors import InUse
from cas.model.manifest import DIRECTORY
from cas.system.debug_log import debug
from cas.system.directories import DirCursor, open_directory
from cas.system.mountinfo import mount_lines
from cas.system.oserrors import adding_path
from cas.system.paths import is_below
from cas.system.progress import NO_PROGRESS, Progress, counter
from cas.system.remove_tree import remove
from cas.system.text import quoted
from mounter.linked.parts import (
    DirectoryPart,
    batched_counts,
    directory_parts,
    layer_directory,
    run_by_name_count,
)
from mounter.plan import Plan, TreeContent

_FileState = tuple[int, int]
"""Size in bytes, and modification time in nanoseconds."""
_Directory = tuple[bytes, list[DirectoryPart]]
"""The path of a directory, with its parts."""
_MAX_PATHS_SHOWN = 5


def remove_linked_tree(
    plan: Plan, content: TreeContent, root_fd: int, progress: Progress = NO_PROGRESS
) -> None:
    """Remove what `make_linked_tree` made in the directory open at `root_fd`, and nothing else.

    A writable tree is removed with all changes. `progress` counts names, including directories.
    Raises InUse, before anything is removed, if the tree holds anything else.
    """
    if plan.writable:
        _refuse_mounts(plan.target)
        _empty(root_fd)
        return
    parts = _parts_by_directory(plan, content)
    _refuse_foreign_in(plan, content, parts, root_fd)
    with DirCursor(root_fd) as cursor:
        for path in parts:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(cursor.at(path), 0o755)
    on_count = counter(progress, sum(map(_name_count, parts.items())))
    run_by_name_count(partial(_unlink_parts, root_fd), parts.items(), on_count, weight=_name_count)
    del parts[b""]
    with DirCursor(root_fd) as cursor:
        for path in reversed(parts):
            parent, _, name = path.rpartition(b"/")
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(name, dir_fd=cursor.at(parent))
    debug("removed the linked tree of %s", quoted(plan.target))


def refuse_foreign_files(plan: Plan, content: TreeContent, root_fd: int) -> None:
    """Refuse a tree that holds anything `make_linked_tree` did not make. Raises InUse."""
    _refuse_foreign_in(plan, content, _parts_by_directory(plan, content), root_fd)


def _parts_by_directory(plan: Plan, content: TreeContent) -> dict[bytes, list[DirectoryPart]]:
    """Return every directory of the tree with its parts, the root first."""
    parts: dict[bytes, list[DirectoryPart]] = {b"": []}
    parts |= {path: [] for path, (node, _) in content.items() if node == DIRECTORY}
    for part in directory_parts(plan, content):
        parts[part.path].append(part)
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
        listed = ", ".join(quoted(path) for path in foreign[:_MAX_PATHS_SHOWN])
        if len(foreign) > _MAX_PATHS_SHOWN:
            listed += f" and {len(foreign) - _MAX_PATHS_SHOWN} more"
        raise InUse(
            f"{quoted(plan.target)} holds files that `cas mount` did not put there: {listed}",
            hint="move them away and try again; nothing was removed",
        )


def _refuse_mounts(target: bytes) -> None:
    """Refuse a tree in or over which something else is mounted. Raises InUse."""
    # A mounted file can be one of the store's own, so sizes and times would not reveal it.
    for line in mount_lines():
        if is_below(line.point, target):
            raise InUse(
                f"something else is mounted at {quoted(line.point)}",
                hint="unmount that and try again; nothing was removed",
            )


def _name_count(directory: _Directory) -> int:
    return 1 + sum(len(part.entries) for part in directory[1])


def _find_foreign(
    content: TreeContent,
    store_fd: int,
    root_fd: int,
    directories: Sequence[_Directory],
    emit_path: Callable[[bytes], None],
) -> None:
    """Emit the paths in some directories of the tree that `make_linked_tree` did not make."""
    with DirCursor(root_fd) as root:
        for directory, parts in directories:
            try:
                fd = root.at(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue  # found as a foreign entry of the parent, or gone
            stored = _stored_files(parts, store_fd)
            prefix = directory and directory + b"/"
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    state = entry.stat(follow_symlinks=False)
                    node, _ = content.get(prefix + name, (b"", 0))
                    if not _is_as_made(state, node, name, fd, stored):
                        emit_path(prefix + name)


def _is_as_made(
    state: os.stat_result, node: bytes, name: bytes, fd: int, stored: Mapping[bytes, _FileState]
) -> bool:
    if node == DIRECTORY:
        return stat.S_ISDIR(state.st_mode)
    if node.startswith(b"l"):
        return stat.S_ISLNK(state.st_mode) and os.readlink(name, dir_fd=fd) == node[2:]
    if not node or not stat.S_ISREG(state.st_mode):
        return False
    if name not in stored:
        # The store has lost the file; that must not make the tree impossible to remove.
        return state.st_size == int(node.split(b" ")[1])
    return (state.st_size, state.st_mtime_ns) == stored[name]


def _stored_files(parts: Sequence[DirectoryPart], store_fd: int) -> dict[bytes, _FileState]:
    """Return the state of the store's own files, by name. Raises OSError."""
    states: dict[bytes, _FileState] = {}
    for part in parts:
        if_missing = contextlib.suppress(FileNotFoundError, NotADirectoryError)
        with if_missing, layer_directory(part, store_fd) as fd:
            for name in part.entries:
                with contextlib.suppress(FileNotFoundError):
                    state = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    states[name] = state.st_size, state.st_mtime_ns
    return states


def _empty(root_fd: int) -> None:
    for name in os.listdir(root_fd):
        remove(os.fsencode(name), root_fd)


def _unlink_parts(
    root_fd: int, directories: Sequence[_Directory], emit_count: Callable[[int], None]
) -> None:
    with DirCursor(root_fd) as cursor, batched_counts(emit_count) as add_count:
        for path, parts in directories:
            with contextlib.suppress(FileNotFoundError):
                fd = cursor.at(path)
                for name in (name for part in parts for name in part.entries):
                    with contextlib.suppress(FileNotFoundError), adding_path(fd):
                        os.unlink(name, dir_fd=fd)
            add_count(_name_count((path, parts)))
