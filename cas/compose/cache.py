"""Cache of facts about compositions: overlaps and merged layers.

Each entry is a small file in the store's `known/`, named after its kind and a digest of the trees
in their order. Entries can be recomputed, so a missing or corrupt file is a cache miss.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from cas.content.digest import hash_bytes
from cas.disk.last_use import is_recent, note_use
from cas.disk.scratch import MayNotWrite, replace_file
from cas.model.conflicts import Overlap
from cas.model.manifest import Digest
from cas.model.strict_json import has_type, parse
from cas.system.disk_use import disk_use, disk_use_at
from cas.system.files import read_sealed, seal


class MergedLayer(NamedTuple):
    """The layer `tree`: the union of the trees `parts`, lowest first, made in boot `boot_id`."""

    tree: Digest
    parts: tuple[Digest, ...]
    boot_id: str


class CompositionCache:
    """The cache in the store at the absolute path `store`."""

    def __init__(self, store: bytes) -> None:
        self._store = store

    def overlaps(self, key: Digest, trees: int) -> list[Overlap] | None:
        """Return the overlaps of the composition `key` with `trees` trees; None on a miss."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            _, *rows = self._read(_overlaps_name(key))
            return [_overlap(trees, *row) for row in rows]
        return None

    def store_overlaps(
        self, key: Digest, trees: Sequence[Digest], overlaps: Sequence[Overlap]
    ) -> None:
        """Store the overlaps of the composition `key` of `trees`, if this user can write."""
        rows = [[os.fsdecode(o.path), o.winner, o.hidden, o.directory] for o in overlaps]
        with contextlib.suppress(OSError, MayNotWrite):
            self._write(_overlaps_name(key), [list(map(_abbreviate, trees)), *rows])
            # The time of the file is the last use, and the composition has not been used yet.
            os.utime(self._path(_overlaps_name(key)), (0, 0))

    def is_use_noted(self, key: Digest) -> bool:
        """Return whether a recent use of a composition, and of its artifacts, is recorded."""
        with contextlib.suppress(OSError):
            return is_recent(os.stat(self._path(_overlaps_name(key))))
        return False

    def note_use(self, key: Digest) -> None:
        """Record a use of a composition, after the uses of its artifacts were recorded."""
        note_use(self._path(_overlaps_name(key)))

    def prune_overlaps(self, trees: Iterable[str], before_ns: int) -> int:
        """Remove the overlaps that have a tree not in `trees`, or a last use before `before_ns`.

        `trees` are all trees in the store. Returns the disk space freed (bytes). Raises OSError.
        """
        return sum(map(self._remove, self._prunable_overlaps(trees, before_ns)))

    def prunable_overlap_bytes(self, trees: Iterable[str], before_ns: int) -> int:
        """Return the disk space (bytes) that `prune_overlaps` would free. Raises OSError."""
        names = self._prunable_overlaps(trees, before_ns)
        return sum(disk_use_at(self._path(name)) for name in names)

    def _prunable_overlaps(self, trees: Iterable[str], before_ns: int) -> Iterator[bytes]:
        stored = set(map(_abbreviate, trees))
        for name in map(os.fsencode, os.listdir(os.path.join(self._store, b"known"))):
            if name.startswith(b"overlaps-") and (
                self._last_used_ns(name) < before_ns or not self._has_only(name, stored)
            ):
                yield name

    def last_used_ns(self, merged: MergedLayer) -> int:
        """Return the last use of a merged layer (ns since 1970); 0 if the entry is missing."""
        return self._last_used_ns(self._name("merged", merged.parts))

    def _last_used_ns(self, name: bytes) -> int:
        try:
            return os.stat(self._path(name)).st_mtime_ns
        except FileNotFoundError:
            return 0

    def _remove(self, name: bytes) -> int:
        try:
            freed = disk_use(os.stat(self._path(name)))
            os.unlink(self._path(name))
        except FileNotFoundError:
            return 0
        return freed

    def _has_only(self, name: bytes, stored: set[str]) -> bool:
        """Return whether all trees of an entry of overlaps are among `stored`."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            trees, *_ = self._read(name)
            return stored.issuperset(trees)
        return False

    def merged(self, parts: Sequence[Digest]) -> MergedLayer | None:
        """Return the merged layer of `parts`, and record its use; None on a miss."""
        name = self._name("merged", parts)
        note_use(self._path(name))
        return self._merged(name)

    def store_merged(self, merged: MergedLayer) -> None:
        """Store the entry of a merged layer. Raises OSError."""
        name = self._name("merged", merged.parts)
        self._write(name, [merged.boot_id, merged.tree, *merged.parts])

    def iter_merged(self) -> Iterator[MergedLayer]:
        """Yield all merged layers that have an entry."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(os.path.join(self._store, b"known")):
                merged = self._merged(name) if name.startswith(b"merged-") else None
                if merged is not None:
                    yield merged

    def remove_merged(self, merged: MergedLayer) -> int:
        """Remove a merged layer's entry; return the disk space freed (bytes). Raises OSError."""
        return self._remove(self._name("merged", merged.parts))

    def _merged(self, name: bytes) -> MergedLayer | None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            boot, tree, *parts = self._read(name)
            if has_type(boot, str) and has_type([tree, *parts], list[Digest]):
                merged = MergedLayer(tree, tuple(parts), boot)
                return merged if self._name("merged", merged.parts) == name else None
        return None

    def _name(self, kind: str, trees: Sequence[Digest]) -> bytes:
        return f"{kind}-{hash_bytes(chr(10).join(trees).encode())}".encode()

    def _path(self, name: bytes) -> bytes:
        return os.path.join(self._store, b"known", name)

    def _read(self, name: bytes) -> list[Any]:
        content = parse(read_sealed(self._path(name)))
        if not isinstance(content, list):
            raise ValueError(content)
        return content

    def _write(self, name: bytes, content: list[Any]) -> None:
        replace_file(self._store, os.path.join(b"known", name), seal(json.dumps(content)))


def _overlap(trees: int, path: str, winner: int, hidden: list[int], directory: bool) -> Overlap:
    """Return an overlap in a composition of `trees` trees. Raises ValueError."""
    if not (
        has_type(path, str) and has_type([winner, *hidden], list[int]) and has_type(directory, bool)
    ):
        raise ValueError("not an overlap")
    if not max(hidden) < winner < trees:
        raise ValueError("an overlap with trees that the composition does not have")
    return Overlap(os.fsencode(path), winner, tuple(hidden), directory)


def composition_key(names: Sequence[str], trees: Sequence[Digest]) -> Digest:
    """Return the cache key of the composition of artifacts with these IDs and trees, in order."""
    return hash_bytes("\n".join((*names, *trees)).encode())


def _overlaps_name(key: Digest) -> bytes:
    return b"overlaps-" + key.encode()


def _abbreviate(tree: str) -> str:
    # A collision only keeps an entry that could be pruned.
    return tree[:12]
