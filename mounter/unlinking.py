"""Taking a linked tree away: what was made, and nothing else."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from functools import partial

from cas import dirs
from cas.dirs import DirCursor, opened
from cas.errors import InUse
from cas.manifest import DIRECTORY
from cas.quoting import quoted
from mounter.linktree import Content, Share, shares, spread_work
from mounter.plan import Plan

_Part = tuple[bytes, list[Share]]
"""A directory of the tree, and what layers bring to it."""


def remove_tree(plan: Plan, content: Content, root_fd: int) -> None:
    """Take away what `make_tree` made in the directory open at `root_fd`, and nothing else.

    What was writable goes whole. Raises InUse, before anything is removed, if there is something
    that `make_tree` did not make.
    """
    if plan.writable:
        _empty(root_fd)
        return
    refuse_foreign(plan, content, root_fd)
    directories = [path for path, (node, _) in content.items() if node == DIRECTORY]
    with DirCursor(root_fd) as cursor:
        for path in (b"", *directories):
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(cursor.at(path), 0o755)
        parts = [(share.path, [share]) for share in shares(plan, content)]
        spread_work(partial(_unlink, root_fd), parts, weight=_names)
        for path in reversed(directories):
            parent, _, name = path.rpartition(b"/")
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(name, dir_fd=cursor.at(parent))


def refuse_foreign(plan: Plan, content: Content, root_fd: int) -> None:
    """Refuse a tree that holds something which `make_tree` did not make. Raises InUse."""
    parts: dict[bytes, list[Share]] = {b"": []}
    parts |= {path: [] for path, (node, _) in content.items() if node == DIRECTORY}
    for share in shares(plan, content):
        parts[share.path].append(share)
    foreign: list[bytes] = []
    with opened(plan.store) as store:
        work = partial(_find_foreign, content, store, root_fd)
        spread_work(work, parts.items(), foreign.append, weight=_names)
    if foreign:
        foreign.sort()
        shown = ", ".join(quoted(path) for path in foreign[:5])
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise InUse(
            f"{quoted(plan.target)} holds what `cas mount` did not put there: {shown}{more}",
            hint="move that away and try again; nothing was removed",
        )


def _names(part: _Part) -> int:
    return 1 + sum(len(share.entries) for share in part[1])


def _find_foreign(
    content: Content,
    store_fd: int,
    root_fd: int,
    parts: Sequence[_Part],
    give: Callable[[bytes], None],
) -> None:
    """Give what is in directories of the tree, and is not what `make_tree` made."""
    one_device = os.fstat(store_fd).st_dev == os.fstat(root_fd).st_dev
    with DirCursor(store_fd) as store, DirCursor(root_fd) as root:
        for directory, its_shares in parts:
            try:
                fd = root.at(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue  # what is in its place is in the directory above
            stored = _inodes(its_shares, store) if one_device else {}
            prefix = directory and directory + b"/"
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    node, _ = content.get(prefix + name, (b"", 0))
                    if node == DIRECTORY:
                        ours = entry.is_dir(follow_symlinks=False)
                    else:
                        ours = stored.get(name, -1) == entry.inode()
                        ours = ours or _is_copy(name, node, fd, its_shares, store)
                    if not ours:
                        give(prefix + name)


def _inodes(its_shares: Sequence[Share], store: DirCursor) -> dict[bytes, int]:
    """Return the inode number of each name, so that a link to it is known by its own."""
    found: dict[bytes, int] = {}
    for share in its_shares:
        with contextlib.suppress(FileNotFoundError), os.scandir(_at(share, store)) as entries:
            numbers = {os.fsencode(entry.name): entry.inode() for entry in entries}
            found |= {name: numbers[name] for name in share.entries if name in numbers}
    return found


def _is_copy(
    name: bytes, node: bytes, fd: int, its_shares: Sequence[Share], store: DirCursor
) -> bool:
    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if node.startswith(b"l"):
        return stat.S_ISLNK(found.st_mode) and os.readlink(name, dir_fd=fd) == node[2:]
    if not node or not stat.S_ISREG(found.st_mode):
        return False
    (share,) = (share for share in its_shares if name in share.entries)
    try:
        stored = os.stat(name, dir_fd=_at(share, store), follow_symlinks=False)
    except FileNotFoundError:  # the store has lost it, which must not keep the tree
        return found.st_size == int(node.split(b" ")[1])
    return (found.st_size, found.st_mtime_ns) == (stored.st_size, stored.st_mtime_ns)


def _at(share: Share, store: DirCursor) -> int:
    return store.at(share.layer + b"/" + share.path if share.path else share.layer)


def _empty(root_fd: int) -> None:
    with os.scandir(root_fd) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            dirs.remove_tree(os.fsencode(entry.name), root_fd)
        else:
            os.unlink(entry.name, dir_fd=root_fd)


def _unlink(root_fd: int, parts: Sequence[_Part], _: Callable[[bytes], None]) -> None:
    with DirCursor(root_fd) as cursor:
        for directory, its_shares in parts:
            with contextlib.suppress(FileNotFoundError):
                fd = cursor.at(directory)
                for name in (name for share in its_shares for name in share.entries):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=fd)
