"""The union of several trees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cas.model.manifest import DIRECTORY, Digest, Manifest


def union(manifests: Iterable[Manifest]) -> dict[bytes, tuple[bytes, int]]:
    """Combine manifests, a later one over the earlier ones, as overlayfs does.

    Returns for each path of the result, sorted, its node and the number of the last manifest that
    has it. Directories merge. Anything else hides the earlier entries at its path, including whole
    directories.
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
    """Remove all paths in a directory from `nodes`."""
    inside = directory + b"/"
    for path in [path for path in nodes if path.startswith(inside)]:
        del nodes[path]


def providers(path: bytes, manifests: Sequence[Manifest]) -> list[tuple[int, bytes]]:
    """Return the number of each manifest that has a path, lowest first, with its node."""
    return [
        (number, manifest.nodes[path])
        for number, manifest in enumerate(manifests)
        if path in manifest.nodes
    ]


def drop_repeated(trees: Iterable[Digest]) -> tuple[Digest, ...]:
    """Drop every tree that occurs again later, since the later one hides it."""
    last_first = dict.fromkeys(reversed(tuple(trees)))
    return tuple(reversed(last_first))
