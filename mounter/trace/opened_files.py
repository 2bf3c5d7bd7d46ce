"""What of a composition was used, told by the files in it that were opened."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import NamedTuple

from cas.model.manifest import DIRECTORY
from cas.system.directories import is_below, parents
from mounter.plan import TreeContent

_MAX_SYMLINKS = 40  # that are followed on the way to one file, path_resolution(7)
OUTSIDE = b".."


class ArtifactUse(NamedTuple):
    """What was used of the artifact `id` (with `@N` if it has a priority).

    `files` is how many files of it are seen in the composition, `opened` are the paths of those
    that were opened, sorted. `links` is how many of its symbolic links may have been followed:
    those that lead to something that was opened, or out of the composition.
    """

    id: str
    files: int
    opened: tuple[bytes, ...]
    links: int

    @property
    def touched(self) -> bool:
        """Whether something of it was used, or may have been."""
        return bool(self.opened or self.links)


def artifact_uses(
    ids: Sequence[str], content: TreeContent, opened: Collection[bytes], target: bytes
) -> list[ArtifactUse]:
    """Tell for each artifact, given by its ID, what of it was used.

    `content` has for each path its node, and the number of the artifact to which it belongs, as
    `cas.model.union.union` gives it; `opened` are the paths of opened files. A file opened
    through a symbolic link has the path at which it really is; `target` is where the composition
    is, since an absolute link may lead there.
    """
    files = [0] * len(ids)
    links = [0] * len(ids)
    found: list[list[bytes]] = [[] for _ in ids]
    reached = {b"", *opened} if opened else set()
    for path in opened:
        reached.update(parents(path))
    reached.add(OUTSIDE)
    for path, (node, number) in content.items():
        if node.startswith(b"l"):
            links[number] += resolve_in_tree(path, content, target) in reached
        elif node != DIRECTORY:
            files[number] += 1
            if path in reached:
                found[number].append(path)
    return [
        ArtifactUse(id_, files[number], tuple(sorted(found[number])), links[number])
        for number, id_ in enumerate(ids)
    ]


def untouched_ids(used: Sequence[ArtifactUse]) -> list[str]:
    """Return the IDs of which nothing was used, each once."""
    touched = {one.id for one in used if one.touched}
    return list(dict.fromkeys(one.id for one in used if one.id not in touched))


def resolve_in_tree(path: bytes, content: TreeContent, target: bytes) -> bytes | None:
    """Return where a path of a composition at `target` really is, as path_resolution(7) finds it.

    None if nothing is there, `..` if it is outside of the composition.
    """
    left = path.split(b"/")[::-1]
    here = b""
    followed = 0
    while left:
        name = left.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not here:
                return OUTSIDE
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, name)
        node, _ = content.get(there, (b"", 0))
        if not node:
            return None
        if not node.startswith(b"l"):
            here = there
            continue
        followed += 1
        if followed > _MAX_SYMLINKS:
            return None
        to = node[2:]
        if to.startswith(b"/"):
            to = os.path.normpath(b"/" + to.lstrip(b"/"))
            if not is_below(to, target):
                return OUTSIDE
            here, to = b"", to[len(target) :]
        left += to.split(b"/")[::-1]
    return here
