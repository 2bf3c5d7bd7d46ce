"""Reads a directory tree: its nodes, and the properties that the store does not keep."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from cas.content.objects import Objects
from cas.errors import CasError, InputRefused
from cas.model.artifact import Dropped
from cas.model.manifest import DIRECTORY, Entry, Kind, Manifest, file_node, symlink_node
from cas.put.ingest import ingest
from cas.put.journal import Journal
from cas.system.directories import DirCursor, Node, attributes, walk
from cas.system.paths import parents, path_text
from cas.system.progress import Progress
from cas.system.text import quoted
from cas.system.workers import run_parallel

_IRREGULAR = {
    stat.S_IFCHR: "a character device (the mark of overlayfs for a deleted file)",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
UNREMARKABLE = {"security.selinux"}
"""Attributes whose loss is not reported: SELinux gives one to every file."""
_FILE_OVERHEAD_BYTES = 200_000
"""Creating an object takes as long as hashing so many bytes."""
_MIN_BYTES_PER_WORKER = 20_000_000
"""A worker is worth its start if it hashes so many bytes."""
_PROGRESS_FILES = 500
"""A worker reports its progress after so many files."""
Place = Callable[[bytes], bytes | None]
"""Maps a path of a directory or an archive to its path in the stored tree; None leaves it out.

`bytes` keeps all paths. For an archive with its tree in a subdirectory, that is mapped to b"".
"""
_Identity = tuple[int, int, int] | None
"""Inode number, size and modification time (ns) of a file; None for a directory."""

_COUNTED = ("size", "new", "new_bytes", "new_disk", "set_id_bits", "xattrs", "owners")


class EntryRefused(InputRefused):
    """A tree has an entry that a sysroot cannot have."""

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(
            f"{path} is {kind}; nothing was stored",
            hint="remove it: a tree has only directories, regular files and symbolic links",
        )


class TreeLeftOver(CasError):
    """A moved tree was stored, but could not be removed completely."""


@dataclass(slots=True)
class ScanResult:
    """The result of reading a tree, or a part of it.

    `new` is the number of new objects, `new_bytes` their size, and `new_disk` their disk space.
    `seen` has the identities of moved files, for `consume`.
    """

    nodes: dict[bytes, bytes] = field(default_factory=dict)
    seen: dict[bytes, _Identity] = field(default_factory=dict)
    kinds: Counter[Kind] = field(default_factory=Counter)
    size: int = 0
    new: int = 0
    new_bytes: int = 0
    new_disk: int = 0
    set_id_bits: int = 0
    xattrs: int = 0
    owners: int = 0

    @property
    def manifest(self) -> Manifest:
        """The manifest of the tree."""
        return Manifest.of(self.nodes)

    @property
    def dropped(self) -> Dropped:
        """The properties that the store does not keep."""
        return Dropped(self.set_id_bits, self.xattrs, self.owners)

    def count_new(self, size: int, disk: int | None) -> None:
        """Count an object of `size` bytes and `disk` bytes on the disk; None if it existed."""
        if disk is not None:
            self.new += 1
            self.new_bytes += size
            self.new_disk += disk

    def recount(self) -> None:
        """Count the entries of `nodes`."""
        entries = [Entry.of(path, node) for path, node in self.nodes.items()]
        self.kinds = Counter(entry.kind for entry in entries)
        self.size = sum(entry.size for entry in entries)

    def rearrange(self, place: Place) -> None:
        """Map all paths with `place`."""
        nodes: dict[bytes, bytes] = {}
        for path, node in self.nodes.items():
            if (placed := place(path)) is not None:
                nodes[placed] = node
                for parent in parents(placed):
                    nodes.setdefault(parent, DIRECTORY)
        self.nodes = nodes
        self.recount()

    def add(self, other: ScanResult) -> None:
        """Add the result for other files of the tree."""
        self.nodes.update(other.nodes)
        self.seen.update(other.seen)
        self.kinds.update(other.kinds)
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))


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
    scan.seen[node.path] = None if kind is Kind.DIRECTORY else _identity(node.stat)
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
                done = ingest(objects, path, directory, root, journal, move=move)
                _count(path, Kind.FILE, done.before, done.names, root, part)
            executable = done.key.executable
            part.nodes[path] = file_node(done.key.digest, done.size, executable=executable)
            part.size += done.size
            part.count_new(done.size, done.new)
            if move:
                part.seen[path] = _identity(done.stat)
    emit(part)


@contextlib.contextmanager
def _errors_with_path(path: bytes, root: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CasError(f"cannot store {path_text(path, root)}: {error.strerror}") from error


def consume(root: bytes, root_fd: int, scan: ScanResult) -> None:
    """Delete the tree that was read, except entries that are new or changed since.

    Raises TreeLeftOver if entries are left.
    """
    left: list[str] = []
    with DirCursor(root_fd) as cursor:
        for path, before in sorted(scan.seen.items(), reverse=True):
            parent, _, name = path.rpartition(b"/")
            try:
                dir_fd = cursor.at(parent)
                if before is None:
                    os.rmdir(name, dir_fd=dir_fd)
                    continue
                now = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                if _identity(now) != before:
                    left.append(path_text(path, root))
                else:
                    os.unlink(name, dir_fd=dir_fd)
            except OSError as error:
                left.append(f"{path_text(path, root)} ({error.strerror})")
    with contextlib.suppress(OSError):
        os.rmdir(root)
        return
    if not left:
        new = [path_text(os.fsencode(name), root) for name in os.listdir(root_fd)]
        left = new or [f"the directory itself, {quoted(root)}"]
    raise TreeLeftOver(
        f"{quoted(root)} was stored, but not all of it could be removed: {', '.join(left[:5])}",
        hint="check the remaining files, and delete them by hand",
    )


def _identity(found: os.stat_result) -> _Identity:
    return found.st_ino, found.st_size, found.st_mtime_ns


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
    found: os.stat_result,
    names: list[str],
    root: bytes,
    scan: ScanResult,
) -> None:
    """Count an entry, and its properties that the store does not keep."""
    if names:
        _check_xattrs(names, root, path)
        scan.xattrs += bool(set(names) - UNREMARKABLE)
    scan.kinds[kind] += 1
    scan.set_id_bits += bool(found.st_mode & (stat.S_ISUID | stat.S_ISGID))
    scan.owners += found.st_uid != os.geteuid()


def _check_xattrs(names: list[str], root: bytes, path: bytes) -> None:
    if mark := overlay_mark(names):
        raise EntryRefused(path_text(path, root), mark)


def overlay_mark(names: Iterable[str]) -> str | None:
    """Describe an entry whose extended attributes are marks of overlayfs; None without a mark."""
    for name in names:
        if ".overlay." in name:
            return f"part of an overlayfs upper directory (it has the attribute {name})"
    return None
