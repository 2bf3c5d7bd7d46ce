"""Conflicts: paths that several trees of a composition bring, with something different."""

from __future__ import annotations

import enum
import fnmatch
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cas.errors import CasError, ExitCode
from cas.model.manifest import DIRECTORY, Manifest
from cas.model.signature import Signature
from cas.model.union import providers, remove_below
from cas.system.text import quoted

_SHOWN = 20


class ConflictPolicy(enum.Enum):
    """What is done about conflicts that are not allowed by name."""

    WARN = "warn"
    ERROR = "error"
    IGNORE = "ignore"


class Overlap(NamedTuple):
    """The tree numbered `winner` hides what those numbered `hidden`, lowest first, have at `path`.

    `directory` tells that a whole directory is hidden by something that is none.
    """

    path: bytes
    winner: int
    hidden: tuple[int, ...]
    directory: bool


class Conflict(NamedTuple):
    """An overlap with the artifacts that are in it."""

    path: bytes
    winner: Signature
    hidden: tuple[Signature, ...]
    directory: bool

    def __str__(self) -> str:
        recipes = {signature.recipe for signature in (self.winner, *self.hidden)}
        whole = len(recipes) <= len(self.hidden)  # recipes alone would not tell them apart
        winner, *hidden = (str(s) if whole else s.recipe for s in (self.winner, *self.hidden))
        what = "hides the whole directory of" if self.directory else "wins over"
        return f"{quoted(self.path)}: {winner} {what} {', '.join(hidden)}"


class ConflictRefused(CasError):
    """A composition has conflicts that must not be; `conflicts` holds them."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, conflicts: Sequence[Conflict], hint: str) -> None:
        self.conflicts = tuple(conflicts)
        shown = "".join(f"\n  {conflict}" for conflict in conflicts[:_SHOWN])
        more = f"\n  … and {len(conflicts) - _SHOWN} more" if len(conflicts) > _SHOWN else ""
        super().__init__(f"artifacts bring different things at one path:{shown}{more}", hint=hint)


def find_overlaps(manifests: Sequence[Manifest]) -> list[Overlap]:
    """Find the paths at which trees, lowest first, differ; sorted.

    Equal nodes (kind, content, executable bit, link target) are no overlap.
    """
    nodes: dict[bytes, bytes] = {}
    differing: dict[bytes, bool] = {}
    for manifest in manifests:
        new = manifest.nodes
        for path in nodes.keys() & new.keys():
            if nodes[path] != new[path]:
                hides = nodes[path] == DIRECTORY
                differing[path] = differing.get(path, False) or hides
                if hides:
                    remove_below(path, nodes)
        nodes.update(new)
    found: list[Overlap] = []
    for path, directory in sorted(differing.items()):
        if path in nodes:
            brought = providers(path, manifests)
            found += _hidden_directories(path, brought) if directory else ()
            *lower, (winner, node) = brought
            hidden = tuple(n for n, other in lower if other not in (node, DIRECTORY))
            if hidden:
                found.append(Overlap(path, winner, hidden, False))
    return found


def _hidden_directories(path: bytes, brought: Sequence[tuple[int, bytes]]) -> Iterator[Overlap]:
    """Yield what is no directory at a path, with the directories that it hides there."""
    directories: list[int] = []
    for number, node in brought:
        if node == DIRECTORY:
            directories.append(number)
        elif directories:
            yield Overlap(path, number, tuple(directories), True)
            directories = []


def apply_policy(
    conflicts: Iterable[Conflict], policy: ConflictPolicy, allowed: Sequence[str]
) -> tuple[Conflict, ...]:
    """Return the conflicts that are to be told.

    `allowed` are patterns as in a shell's `case` (`*` matches `/` too), matched against paths.
    A hidden directory is allowed by its very path only. Raises ConflictRefused.
    """
    left = [conflict for conflict in conflicts if not _allowed(conflict, allowed)]
    directories = [conflict for conflict in left if conflict.directory]
    if directories:
        raise ConflictRefused(
            directories,
            "leave one of them out, or allow the very path (`--allow-overlap PATH`)",
        )
    if left and policy is ConflictPolicy.ERROR:
        raise ConflictRefused(
            left, "leave one of them out, or allow the paths (`--allow-overlap GLOB`)"
        )
    return () if policy is ConflictPolicy.IGNORE else tuple(left)


def _allowed(conflict: Conflict, allowed: Sequence[str]) -> bool:
    path = os.fsdecode(conflict.path)
    patterns = [pattern.removeprefix("./").strip("/") for pattern in allowed]
    if conflict.directory:
        return path in patterns
    return any(path == pattern or fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
