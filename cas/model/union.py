"""Compositions: several trees seen as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cas.model.manifest import DIRECTORY, Digest, Manifest


def union(manifests: Iterable[Manifest]) -> dict[bytes, tuple[bytes, int]]:
    """Lay manifests over each other, a later one over the earlier ones.

    Returns for each path of the result, sorted, its node and the number of the last manifest
    that brought it. Directories merge; anything else hides what is below it at that path, a
    directory with all its content included. That is what overlayfs does, and what copying one
    tree over the other would do.
    """
    nodes: dict[bytes, bytes] = {}
    numbers: dict[bytes, int] = {}
    for number, manifest in enumerate(manifests):
        for path in nodes.keys() & manifest.nodes.keys():
            if nodes[path] == DIRECTORY != manifest.nodes[path]:
                remove_below(path, nodes)
        nodes.update(manifest.nodes)
        numbers.update(dict.fromkeys(manifest.nodes, number))
    return {path: (nodes[path], numbers[path]) for path in sorted(nodes)}


def remove_below(directory: bytes, nodes: dict[bytes, bytes]) -> None:
    """Forget all that is in a directory."""
    inside = directory + b"/"
    for path in [path for path in nodes if path.startswith(inside)]:
        del nodes[path]


def providers(path: bytes, manifests: Sequence[Manifest]) -> list[tuple[int, bytes]]:
    """Return who brings a path, lowest first: the number of each manifest, and its node."""
    return [
        (number, manifest.nodes[path])
        for number, manifest in enumerate(manifests)
        if path in manifest.nodes
    ]


def distinct(trees: Iterable[Digest]) -> tuple[Digest, ...]:
    """Drop every tree that comes again later: it would be hidden there by its own equal."""
    last_first = dict.fromkeys(reversed(tuple(trees)))
    return tuple(reversed(last_first))
