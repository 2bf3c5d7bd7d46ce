"""Conflicts: paths at which the trees of a composition differ."""

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

_MAX_SHOWN = 20


class ConflictPolicy(enum.Enum):
    """The treatment of conflicts that are not explicitly allowed."""

    WARN = "warn"
    ERROR = "error"
    IGNORE = "ignore"


class Overlap(NamedTuple):
    """The tree number `winner` hides the entries of the trees `hidden` (lowest first) at `path`.

    `directory` means that a file or link hides whole directories.
    """

    path: bytes
    winner: int
    hidden: tuple[int, ...]
    directory: bool


class Conflict(NamedTuple):
    """An overlap, with the IDs of the artifacts."""

    path: bytes
    winner: Signature
    hidden: tuple[Signature, ...]
    directory: bool

    def __str__(self) -> str:
        recipes = {signature.recipe for signature in (self.winner, *self.hidden)}
        whole = len(recipes) <= len(self.hidden)  # recipes alone would be ambiguous
        winner, *hidden = (str(s) if whole else s.recipe for s in (self.winner, *self.hidden))
        verb = "hides the whole directory of" if self.directory else "wins over"
        return f"{quoted(self.path)}: {winner} {verb} {', '.join(hidden)}"


class ConflictRefused(CasError):
    """A composition has `conflicts` that are not allowed."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, conflicts: Sequence[Conflict], hint: str) -> None:
        self.conflicts = tuple(conflicts)
        shown = "".join(f"\n  {conflict}" for conflict in conflicts[:_MAX_SHOWN])
        left_out = len(conflicts) - _MAX_SHOWN
        rest = f"\n  … and {left_out} more" if left_out > 0 else ""
        super().__init__(f"artifacts conflict at these paths:{shown}{rest}", hint=hint)


def find_overlaps(manifests: Sequence[Manifest]) -> list[Overlap]:
    """Return the overlaps of trees (lowest first), sorted by path.

    Equal nodes (kind, content, executable bit, link target) do not overlap.
    """
    nodes: dict[bytes, bytes] = {}
    differing: dict[bytes, bool] = {}  # the value: whether a directory is hidden there
    for manifest in manifests:
        new = manifest.nodes
        for path in nodes.keys() & new.keys():  # a set operation: most paths are in one tree only
            if nodes[path] != new[path]:
                hides = nodes[path] == DIRECTORY
                differing[path] = differing.get(path, False) or hides
                if hides:
                    remove_below(path, nodes)
        nodes.update(new)
    overlaps: list[Overlap] = []
    for path, directory in sorted(differing.items()):
        if path in nodes:  # else a later tree hides the whole directory of the path
            provided = providers(path, manifests)
            overlaps += _hidden_directories(path, provided) if directory else ()
            *lower, (winner, node) = provided
            hidden = tuple(n for n, other in lower if other not in (node, DIRECTORY))
            if hidden:
                overlaps.append(Overlap(path, winner, hidden, False))
    return overlaps


def _hidden_directories(path: bytes, provided: Sequence[tuple[int, bytes]]) -> Iterator[Overlap]:
    """Yield an overlap for each file or link at a path that hides directories."""
    directories: list[int] = []
    for number, node in provided:
        if node == DIRECTORY:
            directories.append(number)
        elif directories:
            yield Overlap(path, number, tuple(directories), True)
            directories = []


def apply_policy(
    conflicts: Iterable[Conflict], policy: ConflictPolicy, allowed: Sequence[str]
) -> tuple[Conflict, ...]:
    """Return the conflicts to report.

    `allowed` are patterns of paths as in a shell's `case` (`*` also matches `/`). A hidden
    directory is only allowed by its exact path. Raises ConflictRefused.
    """
    disallowed = [conflict for conflict in conflicts if not _allowed(conflict, allowed)]
    directories = [conflict for conflict in disallowed if conflict.directory]
    if directories:
        raise ConflictRefused(
            directories,
            "omit one of the artifacts, or allow the exact path (`--allow-overlap PATH`)",
        )
    if disallowed and policy is ConflictPolicy.ERROR:
        raise ConflictRefused(
            disallowed, "omit one of the artifacts, or allow the paths (`--allow-overlap GLOB`)"
        )
    return () if policy is ConflictPolicy.IGNORE else tuple(disallowed)


def _allowed(conflict: Conflict, allowed: Sequence[str]) -> bool:
    path = os.fsdecode(conflict.path)
    patterns = [pattern.removeprefix("./").strip("/") for pattern in allowed]
    if conflict.directory:
        return path in patterns
    return any(path == pattern or fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
