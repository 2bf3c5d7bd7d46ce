"""Reading a task's tree: what it consists of, and what of it cannot be kept."""

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
    stat.S_IFCHR: "a character device (overlayfs marks deleted files so)",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
UNREMARKABLE = {"security.selinux"}
"""Attributes whose loss need not be told: every file has one where SELinux runs."""
_COST_OF_A_FILE = 200_000
"""How many bytes are hashed in the time that an object takes besides."""
_LITTLE = 20_000_000
"""How many bytes are hashed in the time that is worth a process."""
_TOGETHER = 500
"""How many files are read before that is told."""
Place = Callable[[bytes], bytes | None]
"""Where in the stored tree a path of a directory or an archive is, if it is.

`bytes` leaves all where it is. An archive may have its tree in a directory, whose place is b"".
"""
_Seen = tuple[int, int, int] | None
"""Inode number, size and time (ns) of a file; None of a directory."""

_COUNTED = ("size", "new", "new_bytes", "new_disk", "set_id_bits", "xattrs", "owners")


class EntryRefused(InputRefused):
    """A tree holds something that a sysroot cannot."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(
            f"{path} is {what}; nothing was stored",
            hint="a tree consists of directories, regular files and symbolic links",
        )


class TreeLeftOver(CasError):
    """A tree was stored, and not all of it could be taken away."""


@dataclass(slots=True)
class ScanResult:
    """What is known of a tree while it is read.

    `new` is how many objects were made, `new_bytes` their size, `new_disk` what that is on the
    disk. `seen` tells what the files were, for who takes them away.
    """

    nodes: dict[bytes, bytes] = field(default_factory=dict)
    seen: dict[bytes, _Seen] = field(default_factory=dict)
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
        """The manifest of the tree, once it is read."""
        return Manifest.of(self.nodes)

    @property
    def dropped(self) -> Dropped:
        """What of the tree is not kept."""
        return Dropped(self.set_id_bits, self.xattrs, self.owners)

    def count_new(self, size: int, disk: int | None) -> None:
        """Count an object of `size` bytes, unless it was there; it takes `disk` bytes of disk."""
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
        """Give all paths their place."""
        nodes: dict[bytes, bytes] = {}
        for path, node in self.nodes.items():
            if (where := place(path)) is not None:
                nodes[where] = node
                for parent in parents(where):
                    nodes.setdefault(parent, DIRECTORY)
        self.nodes = nodes
        self.recount()

    def add(self, other: ScanResult) -> None:
        """Add what is known of other files of the tree."""
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
    """Read the tree open at `root_fd`, by all processors, and make objects of its files.

    `progress` gets files. The caller undoes what is in the journal when this raises: CasError (what
    cannot be read or written, by path), InputRefused, TooDeep, OSError.
    """
    reading = ScanResult()
    _check_xattrs(attributes(root_fd), root, b"")
    files: dict[bytes, int] = {}
    for node in walk(root_fd):
        if place(node.path) is None:
            continue
        kind = _kind(node, root)
        if kind is Kind.FILE:
            files[node.path] = node.stat.st_size + _COST_OF_A_FILE
            continue
        with _told(node.path, root):
            _read_other(node, kind, root, objects, reading)
    objects.note_boot()  # before there are others to do it

    def take(part: ScanResult) -> None:
        reading.add(part)
        progress.update(reading.kinds[Kind.FILE], len(files), reading.size)

    work = partial(_read_files, root, root_fd, objects, journal, move)
    run_parallel(work, files, take, weight=files.__getitem__, min_weight=_LITTLE)
    if place is not bytes:
        reading.rearrange(place)
    return reading


def _read_other(node: Node, kind: Kind, root: bytes, objects: Objects, reading: ScanResult) -> None:
    # Not by descriptor: what is neither file nor directory cannot be opened to ask.
    names = attributes(f"/proc/self/fd/{node.dir_fd}/".encode() + node.name)
    _note(node.path, kind, node.stat, names, root, reading)
    reading.seen[node.path] = None if kind is Kind.DIRECTORY else _content(node.stat)
    if kind is Kind.SYMLINK:
        reading.nodes[node.path] = symlink_node(os.readlink(node.name, dir_fd=node.dir_fd))
        return
    if objects.are_in(node.stat):
        raise InputRefused(
            f"{path_text(node.path, root)} is the store itself, mounted there",
            hint="unmount it there, or give a directory without it",
        )
    reading.nodes[node.path] = DIRECTORY


def _read_files(
    root: bytes,
    root_fd: int,
    objects: Objects,
    journal: Journal,
    move: bool,
    paths: Sequence[bytes],
    give: Callable[[ScanResult], None],
) -> None:
    """Make objects of files; give what is known of them, some at a time."""
    part = ScanResult()
    with DirCursor(root_fd) as cursor:
        for path in sorted(paths):
            if len(part.nodes) >= _TOGETHER:
                give(part)
                part = ScanResult()
            with _told(path, root):
                directory = cursor.at(path.rpartition(b"/")[0])
                done = ingest(objects, path, directory, root, journal, move=move)
                _note(path, Kind.FILE, done.before, done.names, root, part)
            executable = done.key.executable
            part.nodes[path] = file_node(done.key.digest, done.size, executable=executable)
            part.size += done.size
            part.count_new(done.size, done.new)
            if move:
                part.seen[path] = _content(done.stat)
    give(part)


@contextlib.contextmanager
def _told(path: bytes, root: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CasError(f"cannot store {path_text(path, root)}: {error.strerror}") from error


def consume(root: bytes, root_fd: int, reading: ScanResult) -> None:
    """Delete the tree that was read, and nothing that came or changed since.

    Raises TreeLeftOver if something is left.
    """
    left: list[str] = []
    with DirCursor(root_fd) as cursor:
        for path, before in sorted(reading.seen.items(), reverse=True):
            parent, _, name = path.rpartition(b"/")
            try:
                dir_fd = cursor.at(parent)
                if before is None:
                    os.rmdir(name, dir_fd=dir_fd)
                    continue
                now = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                if _content(now) != before:
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
        hint="look at what is left, and delete it by hand",
    )


def _content(found: os.stat_result) -> _Seen:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _kind(node: Node, root: bytes) -> Kind:
    mode = node.stat.st_mode
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY
    if stat.S_ISLNK(mode):
        return Kind.SYMLINK
    what = _IRREGULAR.get(stat.S_IFMT(mode), "of an unknown kind")
    raise EntryRefused(path_text(node.path, root), what)


def _note(
    path: bytes,
    kind: Kind,
    found: os.stat_result,
    names: list[str],
    root: bytes,
    reading: ScanResult,
) -> None:
    """Count an entry, and what of it is not kept."""
    if names:
        _check_xattrs(names, root, path)
        reading.xattrs += bool(set(names) - UNREMARKABLE)
    reading.kinds[kind] += 1
    reading.set_id_bits += bool(found.st_mode & (stat.S_ISUID | stat.S_ISGID))
    reading.owners += found.st_uid != os.geteuid()


def _check_xattrs(names: list[str], root: bytes, path: bytes) -> None:
    if what := overlay_mark(names):
        raise EntryRefused(path_text(path, root), what)


def overlay_mark(names: Iterable[str]) -> str | None:
    """Return what has extended attributes of these names, if it is something of overlayfs."""
    for name in names:
        if ".overlay." in name:
            return f"part of an overlayfs upper directory (it has the attribute {name})"
    return None
