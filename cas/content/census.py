"""The census of regular files in layers: their inodes, sizes and links."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class ContentFile(NamedTuple):
    """A file of `size` bytes at `path`, whose content must match `name`.

    `name` is the digest, followed by `.x` if the file is executable.
    """

    name: bytes
    path: bytes
    size: int


def content_name(node: bytes) -> bytes:
    """Return the content name of a regular file, given its node in a manifest."""
    digest = node.rpartition(b" ")[2]
    return digest + b".x" if node.startswith(b"x") else digest


def content_path(name: bytes) -> bytes:
    """Return the path of the object of a content, relative to the store."""
    return b"objects/" + name[:2] + b"/" + name[2:]


@dataclass(frozen=True, slots=True)
class Census:
    """The regular files of layers, by inode number.

    `sizes` maps each inode to its size in bytes. `unnamed` maps (inode, expected name) to files
    whose object has another name or none. For files whose link count is not two (the object and one
    layer), `links` counts the links found in layers, and `link_counts` has the link count.
    """

    sizes: dict[int, int] = field(default_factory=dict)
    unnamed: dict[tuple[int, bytes], ContentFile] = field(default_factory=dict)
    links: Counter[int] = field(default_factory=Counter)
    link_counts: dict[int, int] = field(default_factory=dict)

    def add(self, other: Census) -> None:
        """Add the census of other layers."""
        self.sizes.update(other.sizes)
        self.unnamed.update(other.unnamed)
        self.links.update(other.links)
        self.link_counts.update(other.link_counts)
