"""Finds the artifacts of a composition that were used, from the files that were opened."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import NamedTuple

from cas.model.manifest import DIRECTORY
from cas.system.paths import is_below, parents
from mounter.plan import TreeContent

_MAX_SYMLINKS = 40  # path_resolution(7)
_OUTSIDE = b".."
"""The result of resolving a path that leads out of the composition."""


class ArtifactUse(NamedTuple):
    """The use of the artifact `id` (with `@N` if it has a priority).

    `files` is the number of its files in the composition, `opened` the sorted paths of those that
    were opened. `links` is the number of its symbolic links that may have been followed, because
    they lead to an opened file or out of the composition.
    """

    id: str
    files: int
    opened: tuple[bytes, ...]
    links: int

    @property
    def touched(self) -> bool:
        """Whether the artifact was used, or may have been."""
        return bool(self.opened or self.links)


def artifact_uses(
    ids: Sequence[str], content: TreeContent, opened: Collection[bytes], target: bytes
) -> list[ArtifactUse]:
    """Return the use of each artifact in `ids`.

    `content` maps paths to their node and the number of the artifact that provides them, as
    `cas.model.union.union` returns it. `opened` are the resolved paths of opened files. `target` is
    the path of the composition; absolute symbolic links may lead there.
    """
    files = [0] * len(ids)
    links = [0] * len(ids)
    opened_by_artifact: list[list[bytes]] = [[] for _ in ids]
    reached = {b"", *opened} if opened else set()
    for path in opened:
        reached.update(parents(path))
    reached.add(_OUTSIDE)
    for path, (node, number) in content.items():
        if node.startswith(b"l"):
            links[number] += resolve_in_tree(path, content, target) in reached
        elif node != DIRECTORY:
            files[number] += 1
            if path in reached:
                opened_by_artifact[number].append(path)
    return [
        ArtifactUse(id_, files[number], tuple(sorted(opened_by_artifact[number])), links[number])
        for number, id_ in enumerate(ids)
    ]


def untouched_ids(uses: Sequence[ArtifactUse]) -> list[str]:
    """Return the IDs that were not used at all, each once."""
    touched = {use.id for use in uses if use.touched}
    return list(dict.fromkeys(use.id for use in uses if use.id not in touched))


def resolve_in_tree(path: bytes, content: TreeContent, target: bytes) -> bytes | None:
    """Resolve a path in a composition at `target`, as path_resolution(7) describes.

    Returns None if nothing is there, `..` if the path leads out of the composition.
    """
    remaining = path.split(b"/")[::-1]
    here = b""
    followed = 0
    while remaining:
        name = remaining.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not here:
                return _OUTSIDE
            here = os.path.dirname(here)
            continue
        entry = os.path.join(here, name)
        node, _ = content.get(entry, (b"", 0))
        if not node:
            return None
        if not node.startswith(b"l"):
            here = entry
            continue
        followed += 1
        if followed > _MAX_SYMLINKS:
            return None
        link = node[2:]
        if link.startswith(b"/"):
            # normpath() keeps two leading slashes, so there must be one.
            link = os.path.normpath(b"/" + link.lstrip(b"/"))
            if not is_below(link, target):
                return _OUTSIDE
            here, link = b"", link[len(target) :]
        remaining += link.split(b"/")[::-1]
    return here
