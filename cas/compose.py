"""Compositions: several trees seen as one."""

from __future__ import annotations

from collections.abc import Iterable

from cas.manifest import DIRECTORY, Digest, Manifest


def union(manifests: Iterable[Manifest]) -> dict[bytes, tuple[bytes, int]]:
    """Lay manifests over each other, a later one over the earlier ones.

    Returns for each path of the result, sorted, its node and the number of the manifest that
    brought it. Directories merge; anything else hides what is below it at that path, a
    directory with all its content included. That is what overlayfs does, and what copying one
    tree over the other would do.
    """
    merged: dict[bytes, tuple[bytes, int]] = {}
    for number, manifest in enumerate(manifests):
        for path, node in manifest.nodes.items():
            below = merged.get(path)
            if below is not None and below[0] == DIRECTORY:
                if node == DIRECTORY:
                    continue
                inside = path + b"/"
                for hidden in [other for other in merged if other.startswith(inside)]:
                    del merged[hidden]
            merged[path] = (node, number)
    return dict(sorted(merged.items()))


def distinct(trees: Iterable[Digest]) -> tuple[Digest, ...]:
    """Drop every tree that comes again later: it would be hidden there by its own equal."""
    last_first = dict.fromkeys(reversed(tuple(trees)))
    return tuple(reversed(last_first))
