"""Which files layers have, and how often each is linked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class ContentFile(NamedTuple):
    """A file of `size` bytes, at `path`, and what its content has to be.

    `name` is the digest, with `.x` if it is executable.
    """

    name: bytes
    path: bytes
    size: int


def content_name(node: bytes) -> bytes:
    """Return the name of the content of a regular file, from its node in a manifest."""
    digest = node.rpartition(b" ")[2]
    return digest + b".x" if node.startswith(b"x") else digest


def content_path(name: bytes) -> bytes:
    """Return where a content has to be, relative to the store."""
    return b"objects/" + name[:2] + b"/" + name[2:]


@dataclass(frozen=True, slots=True)
class Census:
    """The regular files met in layers, by their inode numbers.

    `sizes` has all, in bytes; `unnamed` those that are not the object that they have to be, each
    also by that one's name. Of those that have other links than that name and one in a layer,
    `links` tells how many were met in layers, and `had` how many there were.
    """

    sizes: dict[int, int] = field(default_factory=dict)
    unnamed: dict[tuple[int, bytes], ContentFile] = field(default_factory=dict)
    links: Counter[int] = field(default_factory=Counter)
    had: dict[int, int] = field(default_factory=dict)

    def add(self, other: Census) -> None:
        """Add what another has met, in other layers."""
        self.sizes.update(other.sizes)
        self.unnamed.update(other.unnamed)
        self.links.update(other.links)
        self.had.update(other.had)
