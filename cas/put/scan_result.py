"""The result of reading a tree from a directory or an archive."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cas.model.artifact import Dropped
from cas.model.manifest import DIRECTORY, Entry, Kind, Manifest
from cas.system.paths import parents

UNREMARKABLE_XATTRS = {"security.selinux"}
"""Attributes whose loss is not reported: SELinux gives one to every file."""
Place = Callable[[bytes], bytes | None]
"""Maps a path of a directory or an archive to its path in the stored tree; None leaves it out.

`bytes` keeps all paths. For an archive with its tree in a subdirectory, that is mapped to b"".
"""
FileIdentity = tuple[int, int, int] | None
"""Inode number, size and modification time (ns) of a file; None for a directory."""

_SUMMED_FIELDS = ("size", "new", "new_bytes", "new_disk", "set_id_bits", "xattrs", "owners")


@dataclass(slots=True)
class ScanResult:
    """The result of reading a tree, or a part of it.

    `new` is the number of new objects, `new_bytes` their size, and `new_disk` their disk space.
    `seen` has the identities of moved files, for `consume`.
    """

    nodes: dict[bytes, bytes] = field(default_factory=dict)
    seen: dict[bytes, FileIdentity] = field(default_factory=dict)
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

    def add(self, part: ScanResult) -> None:
        """Add the result for other files of the tree."""
        self.nodes.update(part.nodes)
        self.seen.update(part.seen)
        self.kinds.update(part.kinds)
        for name in _SUMMED_FIELDS:
            setattr(self, name, getattr(self, name) + getattr(part, name))


def file_identity(status: os.stat_result) -> FileIdentity:
    """Return the identity of a file that is not a directory."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def overlay_mark(names: Iterable[str]) -> str | None:
    """Describe an entry whose extended attributes are marks of overlayfs; None without a mark."""
    for name in names:
        if ".overlay." in name:
            return f"part of an overlayfs upper directory (it has the attribute {name})"
    return None
