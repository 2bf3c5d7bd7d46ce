"""How two trees differ."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from cas.content.layers import node_of
from cas.errors import InputRefused
from cas.model.manifest import Entry, Kind, Manifest
from cas.system.directories import Node, open_directory, path_text, walk
from cas.system.text import quoted


class Difference(NamedTuple):
    """What is at `path` in one tree and in another; None if nothing is there."""

    path: bytes
    before: Entry | None
    after: Entry | None

    @property
    def how(self) -> str:
        """What differs, in a word or two."""
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
    """Return the manifest's node of what is at a path; None if it would have none.

    Raises OSError.
    """
    parent, name = os.path.split(path)
    try:
        with open_directory(parent) as fd:
            return node_of(Node(name, name, fd, os.stat(name, dir_fd=fd, follow_symlinks=False)))
    except FileNotFoundError:
        return None


def read_directory(directory: bytes) -> Manifest:
    """Read what a directory consists of, contents included, as `put` would see it.

    Raises InputRefused (something that is no file, directory or symbolic link), OSError.
    """
    nodes: dict[bytes, bytes] = {}
    with open_directory(directory) as fd:
        for found in walk(fd):
            node = node_of(found)
            if node is None:
                raise InputRefused(
                    f"{path_text(found.path, directory)} is no file, directory or symbolic link",
                    hint="compare a directory without it",
                )
            nodes[found.path] = node
    return Manifest.of(nodes)
