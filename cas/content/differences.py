"""Differences between two trees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from cas.content.layers import node_of
from cas.errors import InputRefused
from cas.model.manifest import Entry, Kind, Manifest
from cas.system.directories import Node, open_directory, walk
from cas.system.paths import path_text
from cas.system.text import quoted


class Difference(NamedTuple):
    """The entries of two trees at a `path` where they differ; None is a missing entry."""

    path: bytes
    before: Entry | None
    after: Entry | None

    @property
    def how(self) -> str:
        """The kind of difference, in a word or two."""
        if self.before is None or self.after is None:
            return "added" if self.before is None else "gone"
        if self.before.kind is not self.after.kind:
            return f"{self.before.kind.value} became {self.after.kind.value}"
        if self.before.kind is Kind.SYMLINK:
            return "other target"
        changed = {
            "content": self.before.digest != self.after.digest,
            "executable bit": self.before.executable != self.after.executable,
        }
        return " and ".join(word for word, differs in changed.items() if differs)

    def __str__(self) -> str:
        return f"{quoted(self.path)} ({self.how})"


def iter_differences(before: Manifest, after: Manifest) -> Iterator[Difference]:
    """Yield the paths at which two trees differ, in order."""
    for path in sorted(before.nodes.keys() | after.nodes.keys()):
        old, new = before.nodes.get(path), after.nodes.get(path)
        if old != new:
            yield Difference(
                path,
                None if old is None else Entry.of(path, old),
                None if new is None else Entry.of(path, new),
            )


def read_node(path: bytes) -> bytes | None:
    """Return the node of the file at a path; None if it is missing, or of another kind.

    Raises OSError.
    """
    parent, name = os.path.split(path)
    try:
        with open_directory(parent) as fd:
            return node_of(Node(name, name, fd, os.stat(name, dir_fd=fd, follow_symlinks=False)))
    except FileNotFoundError:
        return None


def read_directory(directory: bytes) -> Manifest:
    """Return the manifest of a directory, with hashed contents, as `put` would see it.

    Raises InputRefused (an entry is not a file, directory or symbolic link), OSError.
    """
    nodes: dict[bytes, bytes] = {}
    with open_directory(directory) as fd:
        for entry in walk(fd):
            node = node_of(entry)
            if node is None:
                raise InputRefused(
                    f"{path_text(entry.path, directory)} is not a file, directory or symbolic link",
                    hint="remove it, or compare another directory",
                )
            nodes[entry.path] = node
    return Manifest.of(nodes)
