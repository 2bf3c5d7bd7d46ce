"""The hardlink and copy strategies: a directory that is made, and taken away again."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping

from cas import dirs
from cas.dirs import OPEN_DIRECTORY, DirCursor, Node, make_directory, reachable, walk
from cas.errors import CasError, InUse
from cas.layout import layer_path
from cas.manifest import DIRECTORY
from cas.quoting import quoted
from mounter.plan import Plan, Strategy, StrategyRefused

Content = Mapping[bytes, tuple[bytes, int]]
_Place = Callable[[bytes, int, bytes, int], None]
"""Makes a file: from a path below a directory, under a name in another (both borrowed)."""

_NO_LINKS = {
    errno.EXDEV: "the store is on another file system, or at another mount of it",
    errno.EPERM: "the store's files may not be linked by this user or on this file system",
}


def refuse_changes(plan: Plan, strategy: Strategy) -> None:
    """Refuse a writable plan that a linked tree cannot be. Raises StrategyRefused."""
    if plan.upper is not None:
        raise StrategyRefused("an upper directory works with overlay only")
    if plan.writable and strategy is not Strategy.COPY:
        raise StrategyRefused("what can be written to must not be linked to the store")


def make_tree(plan: Plan, strategy: Strategy, content: Content, root_fd: int) -> None:
    """Make a plan's tree in the empty directory open at `root_fd`, by HARDLINK or COPY.

    Files are read-only (0444, 0555), and directories too (0555) unless the plan is writable.
    Raises StrategyRefused if the first file shows that links are impossible, or the plan cannot
    be carried out so; what fails later raises CasError.
    """
    refuse_changes(plan, strategy)
    place = _copied if strategy is Strategy.COPY else _linked
    store = os.open(plan.store, OPEN_DIRECTORY)
    first = True
    try:
        with DirCursor(root_fd) as cursor:
            for path, (node, number) in content.items():
                parent, _, name = path.rpartition(b"/")
                directory = cursor.at(parent)
                if node == DIRECTORY:
                    make_directory(name, 0o755, directory)
                elif node.startswith(b"l"):
                    os.symlink(node[2:], name, dir_fd=directory)
                else:
                    source = layer_path(plan.layers[number]) + b"/" + path
                    with reachable(source, store) as (source, source_fd):
                        _place(place, source, source_fd, name, directory, first=first)
                    first = False
            if not plan.writable:
                _seal(content, cursor)
    except OSError as error:
        where, what = quoted(plan.target), error.strerror
        raise CasError(f"cannot make {where}: {what}: {quoted(error.filename or b'')}") from error
    finally:
        os.close(store)


def remove_tree(plan: Plan, content: Content, root_fd: int) -> None:
    """Take away what `make_tree` made in the directory open at `root_fd`, and nothing else.

    What was writable goes whole. Raises InUse, before anything is removed, if there is something
    that `make_tree` did not make.
    """
    if plan.writable:
        _empty(root_fd)
        return
    refuse_foreign(plan, content, root_fd)
    os.fchmod(root_fd, 0o755)
    with DirCursor(root_fd) as cursor:
        for path, (node, _) in content.items():
            if node == DIRECTORY:
                _make_writable(path, cursor)
        for path, (node, _) in reversed(tuple(content.items())):
            parent, _, name = path.rpartition(b"/")
            try:
                directory = cursor.at(parent)
                if node == DIRECTORY:
                    os.rmdir(name, dir_fd=directory)
                else:
                    os.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                continue


def refuse_foreign(plan: Plan, content: Content, root_fd: int) -> None:
    """Refuse a tree that holds something which `make_tree` did not make. Raises InUse."""
    foreign = list(_foreign(plan, content, root_fd))
    if foreign:
        shown = ", ".join(quoted(path) for path in foreign[:5])
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise InUse(
            f"{quoted(plan.target)} holds what `cas mount` did not put there: {shown}{more}",
            hint="move that away and try again; nothing was removed",
        )


def _empty(root_fd: int) -> None:
    with os.scandir(root_fd) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            dirs.remove_tree(os.fsencode(entry.name), root_fd)
        else:
            os.unlink(entry.name, dir_fd=root_fd)


def _make_writable(path: bytes, cursor: DirCursor) -> None:
    try:
        os.fchmod(cursor.at(path), 0o755)
    except FileNotFoundError:
        return


def _seal(content: Content, cursor: DirCursor) -> None:
    for path, (node, _) in content.items():
        if node == DIRECTORY:
            os.fchmod(cursor.at(path), 0o555)
    os.fchmod(cursor.at(b""), 0o555)


def _place(
    place: _Place, source: bytes, source_fd: int, name: bytes, dir_fd: int, *, first: bool
) -> None:
    try:
        place(source, source_fd, name, dir_fd)
    except OSError as error:
        if first and error.errno in _NO_LINKS:
            raise StrategyRefused(_NO_LINKS[error.errno]) from error
        # Of this file alone: 65,000 links on ext4; another user's (proc(5), protected_hardlinks).
        if error.errno in (errno.EMLINK, errno.EPERM):
            return _copied(source, source_fd, name, dir_fd)
        raise


def _linked(source: bytes, source_fd: int, name: bytes, dir_fd: int) -> None:
    os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=dir_fd)


def _copied(source: bytes, source_fd: int, name: bytes, dir_fd: int) -> None:
    """Copy a file; the kernel shares the blocks where the file system can (copy_file_range)."""
    old = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source_fd)
    try:
        found = os.fstat(old)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        new = os.open(name, flags, 0o600, dir_fd=dir_fd)
        try:
            _transfer(old, new, found.st_size)
            os.fchmod(new, found.st_mode & 0o555)
            os.utime(new, ns=(found.st_mtime_ns, found.st_mtime_ns))
        finally:
            os.close(new)
    finally:
        os.close(old)


def _transfer(old: int, new: int, size: int) -> None:
    transfer = _by_range
    done = 0
    while done < size:
        try:
            count = transfer(old, new, size - done, done)
        except OSError as error:
            unsupported = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
            if transfer is _by_sendfile or error.errno not in unsupported:
                raise
            transfer = _by_sendfile
            continue
        if count == 0:
            raise OSError(errno.EIO, "a file of the store is shorter than it was")
        done += count


def _by_range(old: int, new: int, count: int, offset: int) -> int:
    return os.copy_file_range(old, new, count, offset, offset)


def _by_sendfile(old: int, new: int, count: int, offset: int) -> int:
    return os.sendfile(new, old, offset, count)


def _foreign(plan: Plan, content: Content, root_fd: int) -> Iterator[bytes]:
    """Yield what is in the tree and is not what `make_tree` made."""
    store = os.open(plan.store, OPEN_DIRECTORY)
    try:
        for found in walk(root_fd):
            node, number = content.get(found.path, (b"", 0))
            layer = layer_path(plan.layers[number]) if plan.layers else b""
            if not _is_ours(found, node, layer, store):
                yield found.path
    finally:
        os.close(store)


def _is_ours(found: Node, node: bytes, layer: bytes, store_fd: int) -> bool:
    mode = found.stat.st_mode
    if node == DIRECTORY:
        return stat.S_ISDIR(mode)
    if node.startswith(b"l"):
        return stat.S_ISLNK(mode) and os.readlink(found.name, dir_fd=found.dir_fd) == node[2:]
    if not node or not stat.S_ISREG(mode):
        return False
    try:
        with reachable(layer + b"/" + found.path, store_fd) as (path, fd):
            stored = os.stat(path, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:  # the store has lost it, which must not keep the tree
        return found.stat.st_size == int(node.split(b" ")[1])
    return (found.stat.st_size, found.stat.st_mtime_ns) == (stored.st_size, stored.st_mtime_ns)
