"""Reading a task's tree: what it consists of, and what of it cannot be kept."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from functools import partial

from cas.artifact import Dropped
from cas.dirs import DirCursor, Node, attributes, path_text, walk
from cas.errors import CasError, InputRefused
from cas.ingest import Ingested, disown, ingest
from cas.manifest import DIRECTORY, Kind, Manifest, file_node, symlink_node
from cas.objects import Objects
from cas.quoting import quoted

_IRREGULAR = {
    stat.S_IFCHR: "a character device (overlayfs marks deleted files so)",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
_UNREMARKABLE = {"security.selinux"}  # every file has one where SELinux runs


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
class Reading:
    """What is known of a tree while it is read: its nodes and the new objects made of it."""

    nodes: dict[bytes, bytes] = field(default_factory=dict)
    stats: dict[bytes, os.stat_result] = field(default_factory=dict)
    made: dict[bytes, Ingested] = field(default_factory=dict)
    kinds: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    size: int = 0
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

    @property
    def new_bytes(self) -> int:
        """The bytes of content that the store did not have before."""
        return sum(ingested.size for ingested in self.made.values())


def read_tree(root: bytes, root_fd: int, objects: Objects, reading: Reading, *, move: bool) -> None:
    """Read the tree open at `root_fd` into `reading`, making objects of its files.

    The caller undoes (`undo`) what was done when this raises: CasError (what cannot be read or
    written, by path), InputRefused, TooDeep, OSError.
    """
    _check_xattrs(attributes(root_fd), root, b"")
    for node in walk(root_fd):
        try:
            _read_node(node, root, objects, reading, move=move)
        except OSError as error:
            path = path_text(node.path, root)
            raise CasError(f"cannot store {path}: {error.strerror}") from error


def _read_node(node: Node, root: bytes, objects: Objects, reading: Reading, *, move: bool) -> None:
    reading.stats[node.path] = node.stat
    kind = _kind(node, root)
    _note_losses(node, root, reading)
    reading.kinds[kind] += 1
    if kind is Kind.DIRECTORY:
        if objects.are_in(node.stat):
            raise InputRefused(
                f"{path_text(node.path, root)} is the store itself, mounted there",
                hint="unmount it there, or give a directory without it",
            )
        reading.nodes[node.path] = DIRECTORY
    elif kind is Kind.SYMLINK:
        reading.nodes[node.path] = symlink_node(os.readlink(node.name, dir_fd=node.dir_fd))
    else:
        note = partial(reading.made.__setitem__, node.path) if move else None
        path = os.path.join(root, node.path)
        done = ingest(objects, node.name, node.dir_fd, path, note)
        if done.new:
            reading.made[node.path] = done
        reading.stats[node.path] = done.stat
        reading.size += done.size
        executable = done.key.executable
        reading.nodes[node.path] = file_node(done.key.digest, done.size, executable=executable)


def undo(root_fd: int, objects: Objects, reading: Reading) -> None:
    """Take back what `read_tree` did to the store and to the tree. Raises OSError.

    A file that became an object gets its mode and time back; or a copy takes its place, should
    another process have linked the object meanwhile, or a layer that was recorded already.
    """
    with DirCursor(root_fd) as cursor:
        for path, done in sorted(reading.made.items()):
            if done.adopted is None:
                objects.remove_unused(done.key, os.geteuid())
                continue
            objects.remove_unused(done.key, os.geteuid(), links=2)
            parent, _, name = path.rpartition(b"/")
            disown(objects, name, cursor.at(parent), done.adopted)


def consume(root: bytes, root_fd: int, reading: Reading) -> None:
    """Delete the tree that was read, and nothing that came or changed since.

    Raises TreeLeftOver if something is left.
    """
    left: list[str] = []
    with DirCursor(root_fd) as cursor:
        for path, before in sorted(reading.stats.items(), reverse=True):
            parent, _, name = path.rpartition(b"/")
            try:
                dir_fd = cursor.at(parent)
                if stat.S_ISDIR(before.st_mode):
                    os.rmdir(name, dir_fd=dir_fd)
                    continue
                now = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                if _content(now) != _content(before):
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


def _content(found: os.stat_result) -> tuple[int, int, int]:
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


def _note_losses(node: Node, root: bytes, reading: Reading) -> None:
    # Not by descriptor: opening a file to ask would cost as much again as reading it.
    where = f"/proc/self/fd/{node.dir_fd}/".encode() + node.name
    names = attributes(where)
    if names:
        _check_xattrs(names, root, node.path)
        reading.xattrs += bool(set(names) - _UNREMARKABLE)
    reading.set_id_bits += bool(node.stat.st_mode & (stat.S_ISUID | stat.S_ISGID))
    reading.owners += node.stat.st_uid != os.geteuid()


def _check_xattrs(names: list[str], root: bytes, path: bytes) -> None:
    for name in names:
        if ".overlay." in name:
            what = f"part of an overlayfs upper directory (it has the attribute {name})"
            raise EntryRefused(path_text(path, root), what)
