"""Manifests: the entries of a tree as canonical bytes."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NewType

from cas.errors import StoreDamaged
from cas.system.text import quoted

Digest = NewType("Digest", str)
"""A BLAKE3 digest, 64 lower-case hexadecimal digits."""

_DIGEST = re.compile("[0-9a-f]{64}")
MAGIC = b"sysroot-cas manifest 1"
_SIZE = rb"0|[1-9][0-9]{0,17}|[1-8][0-9]{18}"  # up to 63 bits, as in the kernel
_NODE = re.compile(rb"d|[fx] (?:%s) [0-9a-f]{64}|l [^\0]{1,4095}" % _SIZE, re.DOTALL)

DIRECTORY = b"d"
"""The node of a directory; `docs/format.md` specifies nodes."""


def is_digest(text: str) -> bool:
    """Return whether a text has the form of a digest."""
    return _DIGEST.fullmatch(text) is not None


class BadManifest(StoreDamaged):
    """The bytes are not a canonical manifest."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"manifest damaged: {reason}")


class Kind(enum.Enum):
    """The kind of an entry."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


class Entry(NamedTuple):
    """One path of a tree; `size` (bytes) and `digest` describe the content of a file."""

    path: bytes
    kind: Kind
    executable: bool = False
    size: int = 0
    digest: Digest | None = None
    target: bytes | None = None

    @classmethod
    def of(cls, path: bytes, node: bytes) -> Entry:
        """Return the entry of a valid node."""
        if node == DIRECTORY:
            return cls(path, Kind.DIRECTORY)
        if node.startswith(b"l"):
            return cls(path, Kind.SYMLINK, target=node[2:])
        mark, size, digest = node.split(b" ")
        return cls(path, Kind.FILE, mark == b"x", int(size), Digest(digest.decode()))


def file_node(digest: Digest, size: int, *, executable: bool) -> bytes:
    """Return the node of a regular file."""
    return b"%c %d %s" % (b"x" if executable else b"f", size, digest.encode())


def symlink_node(target: bytes) -> bytes:
    """Return the node of a symbolic link."""
    return b"l " + target


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a tree: a node for each path below its root.

    `nodes` is sorted by path (as bytes), so a directory comes before its content. A node describes
    a path completely: two paths with equal nodes have equal content.
    """

    nodes: dict[bytes, bytes]

    @classmethod
    def of(cls, nodes: dict[bytes, bytes]) -> Manifest:
        """Return the manifest of valid nodes in any order."""
        return cls(dict(sorted(nodes.items())))

    def __iter__(self) -> Iterator[Entry]:
        return (Entry.of(path, node) for path, node in self.nodes.items())

    def encode(self) -> bytes:
        """Return the canonical bytes; their BLAKE3 digest identifies the tree."""
        fields = [MAGIC]
        for path, node in self.nodes.items():
            fields += (path, node)
        return b"\0".join(fields) + b"\0"

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Decode untrusted bytes.

        The result has only relative paths without `.` and `..`, each below a directory of the same
        manifest. Raises BadManifest for anything else.
        """
        nodes = _split(data)
        _check(nodes)
        return cls(nodes)

    @classmethod
    def decode_trusted(cls, data: bytes) -> Manifest:
        """Decode bytes with a verified digest, for comparisons only.

        Skipping the validation takes a fifth of the time. If the digest itself comes from an
        attacker, paths and nodes can be anything. Raises BadManifest.
        """
        return cls(_split(data))


def _split(data: bytes) -> dict[bytes, bytes]:
    if not data.startswith(MAGIC + b"\0"):
        raise BadManifest("it does not begin like a manifest of format 1")
    fields = data.split(b"\0")
    if fields.pop() or len(fields) % 2 == 0:
        raise BadManifest("it is truncated")
    nodes = dict(zip(fields[1::2], fields[2::2], strict=True))
    if 2 * len(nodes) + 1 != len(fields):
        raise BadManifest("a path occurs twice")
    return nodes


def _check(nodes: dict[bytes, bytes]) -> None:
    previous = b""
    for path, node in nodes.items():
        parent, _, name = path.rpartition(b"/")
        if name in (b"", b".", b"..") or len(name) > 255:
            raise BadManifest(f"{quoted(path)} is not a valid path")
        if (parent and nodes.get(parent) != DIRECTORY) or path.startswith(b"/"):
            raise BadManifest(f"{quoted(path)} is not in a directory")
        if path <= previous:
            raise BadManifest(f"{quoted(path)} is out of order")
        if not _NODE.fullmatch(node):
            raise BadManifest(f"the node of {quoted(path)} is invalid")
        previous = path
