"""Comparing a layer with its manifest, without reading contents."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from cas.dirs import Node, opened, walk
from cas.findings import FaultKind
from cas.manifest import DIRECTORY, Manifest, symlink_node
from cas.quoting import quoted
from cas.sharing import directory_mode
from cas.stamp import is_stamped


@dataclass(frozen=True, slots=True)
class Fault:
    """Something is wrong at `path` of a layer; `what` says it, as text after the path."""

    kind: FaultKind
    path: bytes
    what: str

    def __str__(self) -> str:
        return f"{quoted(self.path)} {self.what}"


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A regular file of a layer, where there has to be one.

    `found` is where it is, until the next step, and `node` what the manifest says of it.
    """

    found: Node
    node: bytes


def compare(layer_fd: int, manifest: Manifest, *, stamped: bool) -> Iterator[Fault | LayerFile]:
    """Compare the layer open at `layer_fd` (borrowed) with its manifest.

    Yields what is wrong, and the files whose contents are left to check. One that was written to
    since has lost its stamp; where there are none, not `stamped`, it is newer than the layer's
    root, which is touched when the layer is complete. Raises OSError.
    """
    built_ns = os.fstat(layer_fd).st_mtime_ns
    with opened(b"..", layer_fd) as layers:
        mode_of_directories = directory_mode(layers)
    missing = dict(manifest.nodes)
    for found in walk(layer_fd):
        wanted = missing.pop(found.path, None)
        if wanted is None:
            yield Fault(FaultKind.ENTRY, found.path, "does not belong there")
            continue
        mode = found.stat.st_mode
        if stat.S_ISREG(mode) and wanted[:1] in (b"f", b"x"):
            kind, number, digest = wanted.split(b" ", 2)
            size = int(number)
            right = stat.S_IFREG | (0o555 if kind == b"x" else 0o444)
            if stamped:
                written = not is_stamped(found.stat, digest.decode())
            else:
                written = found.stat.st_mtime_ns > built_ns
            if (found.stat.st_size, mode) != (size, right) or written:
                yield from _file_faults(found, size, stat.S_IMODE(right), written=written)
            yield LayerFile(found, wanted)
        elif _node(found) != wanted:
            yield Fault(FaultKind.ENTRY, found.path, "is not what was stored")
        elif stat.S_ISDIR(mode) and stat.S_IMODE(mode) != mode_of_directories:
            yield _mode(found, mode_of_directories)
    for path in missing:
        yield Fault(FaultKind.ENTRY, path, "is missing")


def _file_faults(found: Node, size: int, mode: int, *, written: bool) -> Iterator[Fault]:
    if found.stat.st_size != size:
        what = f"has {found.stat.st_size} bytes, not {size}"
        yield Fault(FaultKind.CONTENT, found.path, what)
    elif written:
        yield Fault(FaultKind.WRITTEN, found.path, "was written to after it was stored")
    if stat.S_IMODE(found.stat.st_mode) != mode:
        yield _mode(found, mode)


def _mode(found: Node, mode: int) -> Fault:
    has = stat.S_IMODE(found.stat.st_mode)
    return Fault(FaultKind.MODE, found.path, f"has mode {has:04o}, not {mode:04o}")


def _node(found: Node) -> bytes | None:
    """Return the manifest's node of a directory or symbolic link."""
    if stat.S_ISDIR(found.stat.st_mode):
        return DIRECTORY
    if stat.S_ISLNK(found.stat.st_mode):
        return symlink_node(os.readlink(found.name, dir_fd=found.dir_fd))
    return None
