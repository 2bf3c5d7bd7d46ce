"""What was found out about a composition before: its overlaps, and its merged layer.

Each is a small file in the store's `known/`, named by what it is and by the trees in their
order. They can be found out again, so a file that is missing or makes no sense is just not there.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cas import digest as hashing
from cas.conflicts import Overlap
from cas.manifest import Digest


@dataclass(frozen=True, slots=True)
class Merged:
    """The layer `tree` is the union of `parts`, lowest first, made in the boot `boot_id`."""

    tree: Digest
    parts: tuple[Digest, ...]
    boot_id: str


class Known:
    """The `known/` of the store at the absolute path `store`."""

    def __init__(self, store: bytes) -> None:
        self._store = store

    def overlaps(self, trees: Sequence[Digest]) -> list[Overlap] | None:
        """Return the overlaps of trees if they were looked for before."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return [
                Overlap(os.fsencode(path), winner, tuple(hidden), directory)
                for path, winner, hidden, directory in self._read(self._name("overlaps", trees))
            ]
        return None

    def keep_overlaps(self, trees: Sequence[Digest], overlaps: Sequence[Overlap]) -> None:
        """Remember the overlaps of trees; where that fails, they will be looked for again."""
        rows = [[os.fsdecode(o.path), o.winner, o.hidden, o.directory] for o in overlaps]
        with contextlib.suppress(OSError):
            self._write(self._name("overlaps", trees), rows)

    def merged(self, parts: Sequence[Digest]) -> Merged | None:
        """Return the merged layer of trees if one was made before."""
        return self._merged(self._name("merged", parts))

    def keep_merged(self, merged: Merged) -> None:
        """Remember a merged layer. Raises OSError."""
        content = [merged.boot_id, merged.tree, *merged.parts]
        self._write(self._name("merged", merged.parts), content)

    def all_merged(self) -> Iterator[Merged]:
        """Yield the merged layers that are remembered."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(os.path.join(self._store, b"known")):
                merged = self._merged(name) if name.startswith(b"merged-") else None
                if merged is not None:
                    yield merged

    def forget_merged(self, merged: Merged) -> None:
        """Forget a merged layer. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(self._name("merged", merged.parts)))

    def _merged(self, name: bytes) -> Merged | None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            boot, tree, *parts = self._read(name)
            return Merged(Digest(tree), tuple(map(Digest, parts)), boot)
        return None

    def _name(self, kind: str, trees: Sequence[Digest]) -> bytes:
        return f"{kind}-{hashing.of_bytes(chr(10).join(trees).encode())}".encode()

    def _path(self, name: bytes) -> bytes:
        return os.path.join(self._store, b"known", name)

    def _read(self, name: bytes) -> list[Any]:
        with open(self._path(name), "rb") as file:
            content = json.load(file)
        if not isinstance(content, list):
            raise ValueError(content)
        return content

    def _write(self, name: bytes, content: list[Any]) -> None:
        unique = f"known-{os.getpid()}-{os.urandom(8).hex()}".encode()
        unfinished = os.path.join(self._store, b"tmp", unique)
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(self._store, b"known"), 0o755)
        with open(unfinished, "w") as file:
            json.dump(content, file)
        os.rename(unfinished, self._path(name))
