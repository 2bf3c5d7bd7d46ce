"""Reads a directory tree: its nodes, and the properties that the store does not keep."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from cas.content.objects import Objects
from cas.errors import CasError, InputRefused
from cas.model.manifest import DIRECTORY, Kind, file_node, symlink_node
from cas.put.ingest import ingest
from cas.put.journal import Journal
from cas.put.scan_result import (
    UNREMARKABLE_XATTRS,
    Place,
    ScanResult,
    file_identity,
    overlay_mark,
)
from cas.system.compression import SUFFIXES
from cas.system.directories import DirCursor, Node, attributes, walk
from cas.system.paths import is_within, path_text
from cas.system.progress import Progress
from cas.system.text import quoted
from cas.system.workers import run_parallel

_IRREGULAR = {
    stat.S_IFCHR: "a character device (the mark of overlayfs for a deleted file)",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
_FILE_OVERHEAD_BYTES = 200_000
"""Creating an object takes as long as hashing so many bytes."""
_MIN_BYTES_PER_WORKER = 20_000_000
"""A worker is worth its start if it hashes so many bytes."""
_PROGRESS_FILES = 500
"""A worker reports its progress after so many files."""


class EntryRefused(InputRefused):
    """A tree has an entry that a sysroot cannot have."""

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(
            f"{path} is {kind}; nothing was stored",
            hint="remove it: a tree has only directories, regular files and symbolic links",
        )


def read_tree(
    root: bytes,
    root_fd: int,
    place: Place,
    objects: Objects,
    journal: Journal,
    *,
    move: bool,
    progress: Progress,
) -> ScanResult:
    """Read the tree open at `root_fd` on all processors, and store its files as objects.

    `progress` counts files. If this raises, the caller undoes the journal. Raises CasError (with
    the path that cannot be read or written), InputRefused, TooDeep, OSError.
    """
    scan = ScanResult()
    _check_xattrs(attributes(root_fd), root, b"")
    files: dict[bytes, int] = {}
    for node in walk(root_fd):
        if place(node.path) is None:
            continue
        kind = _kind(node, root)
        if kind is Kind.FILE:
            files[node.path] = node.stat.st_size + _FILE_OVERHEAD_BYTES
            continue
        with _errors_with_path(node.path, root):
            _read_other(node, kind, root, objects, scan)
    objects.note_boot()  # once, before the workers would each do it

    def on_result(part: ScanResult) -> None:
        scan.add(part)
        progress.update(scan.kinds[Kind.FILE], len(files), scan.size)

    work = partial(_read_files, root, root_fd, objects, journal, move)
    run_parallel(work, files, on_result, weight=files.__getitem__, min_weight=_MIN_BYTES_PER_WORKER)
    if place is not bytes:
        scan.rearrange(place)
    return scan


def _read_other(node: Node, kind: Kind, root: bytes, objects: Objects, scan: ScanResult) -> None:
    # By path and not by descriptor: a symbolic link cannot be opened.
    names = attributes(f"/proc/self/fd/{node.dir_fd}/".encode() + node.name)
    _count(node.path, kind, node.stat, names, root, scan)
    scan.seen[node.path] = None if kind is Kind.DIRECTORY else file_identity(node.stat)
    if kind is Kind.SYMLINK:
        scan.nodes[node.path] = symlink_node(os.readlink(node.name, dir_fd=node.dir_fd))
        return
    if objects.are_in(node.stat):
        raise InputRefused(
            f"{path_text(node.path, root)} is the store itself, mounted there",
            hint="unmount it there, or choose a directory without it",
        )
    scan.nodes[node.path] = DIRECTORY


def _read_files(
    root: bytes,
    root_fd: int,
    objects: Objects,
    journal: Journal,
    move: bool,
    paths: Sequence[bytes],
    emit: Callable[[ScanResult], None],
) -> None:
    """Store files as objects; emit the results in batches."""
    part = ScanResult()
    with DirCursor(root_fd) as cursor:
        for path in sorted(paths):
            if len(part.nodes) >= _PROGRESS_FILES:
                emit(part)
                part = ScanResult()
            with _errors_with_path(path, root):
                directory = cursor.at(path.rpartition(b"/")[0])
                ingested = ingest(objects, path, directory, root, journal, move=move)
                _count(path, Kind.FILE, ingested.before, ingested.names, root, part)
            executable = ingested.key.executable
            part.nodes[path] = file_node(ingested.key.digest, ingested.size, executable=executable)
            part.size += ingested.size
            part.count_new(ingested.size, ingested.new)
            if move:
                part.seen[path] = file_identity(ingested.stat)
    emit(part)


@contextlib.contextmanager
def _errors_with_path(path: bytes, root: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CasError(f"cannot store {path_text(path, root)}: {error.strerror}") from error


def _kind(node: Node, root: bytes) -> Kind:
    mode = node.stat.st_mode
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY
    if stat.S_ISLNK(mode):
        return Kind.SYMLINK
    kind = _IRREGULAR.get(stat.S_IFMT(mode), "of an unknown kind")
    raise EntryRefused(path_text(node.path, root), kind)


def _count(
    path: bytes,
    kind: Kind,
    status: os.stat_result,
    names: list[str],
    root: bytes,
    scan: ScanResult,
) -> None:
    """Count an entry, and its properties that the store does not keep."""
    if names:
        _check_xattrs(names, root, path)
        scan.xattrs += bool(set(names) - UNREMARKABLE_XATTRS)
    scan.kinds[kind] += 1
    scan.set_id_bits += bool(status.st_mode & (stat.S_ISUID | stat.S_ISGID))
    scan.owners += status.st_uid != os.geteuid()


def _check_xattrs(names: list[str], root: bytes, path: bytes) -> None:
    if mark := overlay_mark(names):
        raise EntryRefused(path_text(path, root), mark)


def refuse_root(root: bytes, store: bytes) -> None:
    """Refuse a root that is not a directory, or that contains the store or lies in it."""
    problem = None
    try:
        if not stat.S_ISDIR(os.stat(root).st_mode):
            problem = "is not a directory"
    except FileNotFoundError:
        problem = "does not exist"
    if problem is not None:
        hint = f"name a directory or a tar archive ({', '.join(SUFFIXES)})"
        raise InputRefused(f"{quoted(root)} {problem}", hint=hint)
    if is_within(root, store) or is_within(store, root):
        raise InputRefused(
            f"{quoted(root)} contains the store {quoted(store)}, or lies in it",
            hint="choose a directory outside of the store",
        )
