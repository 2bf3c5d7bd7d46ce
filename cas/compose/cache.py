"""Cache of facts about compositions: their overlaps, and their merged layers.

Each entry is a small file in `known/` of the store, named by its kind and a hash of the trees in
their order. Entries can be recomputed, so a missing or corrupt file is a cache miss.
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
    """A merged layer: `tree` is the union of `parts`, lowest first, built in the boot `boot_id`."""

    tree: Digest
    parts: tuple[Digest, ...]
    boot_id: str


class CompositionCache:
    """The composition cache of the store at the absolute path `store`."""

    def __init__(self, store: bytes) -> None:
        self._store = store

    def overlaps(self, key: Digest, trees: int) -> list[Overlap] | None:
        """Return the cached overlaps of the composition `key` of so many trees, or None."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            _, *rows = self._read(_overlaps_of(key))
            return [_overlap(trees, *row) for row in rows]
        return None

    def store_overlaps(
        self, key: Digest, trees: Sequence[Digest], overlaps: Sequence[Overlap]
    ) -> None:
        """Cache the overlaps of a composition of `trees`; errors are ignored."""
        rows = [[os.fsdecode(o.path), o.winner, o.hidden, o.directory] for o in overlaps]
        with contextlib.suppress(OSError, MayNotWrite):
            self._write(_overlaps_of(key), [list(map(_short, trees)), *rows])
            os.utime(self._path(_overlaps_of(key)), (0, 0))  # cached, but not used yet

    def is_use_noted(self, key: Digest) -> bool:
        """Return whether a use of a composition, and of its artifacts, was noted recently."""
        with contextlib.suppress(OSError):
            return is_recent(os.stat(self._path(_overlaps_of(key))))
        return False

    def note_use(self, key: Digest) -> None:
        """Note a use of a composition now; the caller notes that of its artifacts."""
        note_use(self._path(_overlaps_of(key)))

    def prune_overlaps(self, trees: Iterable[str], before_ns: int) -> int:
        """Delete the overlaps of removed trees, and those last used before `before_ns`.

        `trees` are the stored trees. Returns the disk space freed (bytes). Raises OSError.
        """
        return sum(map(self._forget, self._old_overlaps(trees, before_ns)))

    def prunable_overlap_bytes(self, trees: Iterable[str], before_ns: int) -> int:
        """Return the bytes of disk that `prune_overlaps` would give back. Raises OSError."""
        return sum(map(self._size, self._old_overlaps(trees, before_ns)))

    def entry_bytes(self, merged: MergedLayer) -> int:
        """Return the disk space (bytes) of the entry of a merged layer. Raises OSError."""
        return self._size(self._name("merged", merged.parts))

    def _old_overlaps(self, trees: Iterable[str], before_ns: int) -> Iterator[bytes]:
        stored = set(map(_short, trees))
        for name in map(os.fsencode, os.listdir(os.path.join(self._store, b"known"))):
            if name.startswith(b"overlaps-") and (
                self._last_used_ns(name) < before_ns or not self._has_all_trees(name, stored)
            ):
                yield name

    def _size(self, name: bytes) -> int:
        return disk_use_at(self._path(name))

    def last_used_ns(self, merged: MergedLayer) -> int:
        """Return the time of last use of a merged layer (ns since 1970), or 0 if it is gone."""
        return self._last_used_ns(self._name("merged", merged.parts))

    def _last_used_ns(self, name: bytes) -> int:
        try:
            return os.stat(self._path(name)).st_mtime_ns
        except FileNotFoundError:
            return 0

    def _forget(self, name: bytes) -> int:
        try:
            freed = disk_use(os.stat(self._path(name)))
            os.unlink(self._path(name))
        except FileNotFoundError:
            return 0
        return freed

    def _has_all_trees(self, name: bytes, stored: set[str]) -> bool:
        with contextlib.suppress(OSError, ValueError, TypeError):
            trees, *_ = self._read(name)
            return stored.issuperset(trees)
        return False

    def merged(self, parts: Sequence[Digest]) -> MergedLayer | None:
        """Return the merged layer of trees, or None; note its use."""
        name = self._name("merged", parts)
        note_use(self._path(name))
        return self._merged(name)

    def store_merged(self, merged: MergedLayer) -> int:
        """Cache a merged layer; return the disk space of the entry (bytes). Raises OSError."""
        name = self._name("merged", merged.parts)
        self._write(name, [merged.boot_id, merged.tree, *merged.parts])
        return self._size(name)

    def iter_merged(self) -> Iterator[MergedLayer]:
        """Yield all cached merged layers."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(os.path.join(self._store, b"known")):
                merged = self._merged(name) if name.startswith(b"merged-") else None
                if merged is not None:
                    yield merged

    def remove_merged(self, merged: MergedLayer) -> int:
        """Delete the entry of a merged layer; return the bytes freed. Raises OSError."""
        return self._forget(self._name("merged", merged.parts))

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
    """Return a checked overlap of so many `trees`. Raises ValueError."""
    if not (
        has_type(path, str) and has_type([winner, *hidden], list[int]) and has_type(directory, bool)
    ):
        raise ValueError("it is not an overlap")
    if not max(hidden) < winner < trees:
        raise ValueError("it refers to other trees")
    return Overlap(os.fsencode(path), winner, tuple(hidden), directory)


def composition_key(names: Sequence[str], trees: Sequence[Digest]) -> Digest:
    """Return the cache key of a composition of artifacts with these IDs and trees."""
    return hash_bytes("\n".join((*names, *trees)).encode())


def _overlaps_of(key: Digest) -> bytes:
    return b"overlaps-" + key.encode()


def _short(tree: str) -> str:
    """Return a prefix of a digest; a collision would only keep a small file for longer."""
    return tree[:12]
