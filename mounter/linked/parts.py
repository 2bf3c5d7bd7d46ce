"""The parts of a linked tree, by which all processors share the work of making and removing it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from cas.disk.layout import layer_path
from cas.model.manifest import DIRECTORY
from cas.system.directories import open_directory, shortened_path
from mounter.plan import Plan, TreeContent

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MIN_NAMES_PER_WORKER = 2000
"""Names below which starting a worker costs more than it saves."""
PROGRESS_BATCH_NAMES = 1000
"""Names that are made or removed between two progress reports."""


class DirectoryPart(NamedTuple):
    """The entries of the tree's directory `path` that come from one layer.

    `layer` is the layer's path in the store; `entries` maps names to nodes of the manifest,
    without subdirectories.
    """

    path: bytes
    layer: bytes
    entries: dict[bytes, bytes]


def directory_parts(plan: Plan, content: TreeContent) -> list[DirectoryPart]:
    """Return everything in a plan's content except directories."""
    parts: dict[tuple[bytes, int], DirectoryPart] = {}
    layers = [layer_path(tree) for tree in plan.layers]
    for path, (node, number) in content.items():
        if node != DIRECTORY:
            parent, _, name = path.rpartition(b"/")
            part = parts.get((parent, number))
            if part is None:
                part = parts[parent, number] = DirectoryPart(parent, layers[number], {})
            part.entries[name] = node
    return list(parts.values())


@contextmanager
def layer_directory(part: DirectoryPart, store_fd: int) -> Iterator[int]:
    """Open the layer's directory that a part comes from, for a `with` block. Raises OSError."""
    # Opened by its whole path: a second DirCursor would double the descriptors of a deep tree.
    path = os.path.join(part.layer, part.path) if part.path else part.layer
    with (
        shortened_path(path, store_fd) as (short_path, fd),
        open_directory(short_path, fd) as directory,
    ):
        yield directory


def run_by_name_count(
    work: Callable[[Sequence[_Item], Callable[[_Result], None]], None],
    items: Iterable[_Item],
    on_result: Callable[[_Result], None],
    *,
    weight: Callable[[_Item], int],
) -> None:
    """Do `work` on all processors, in shares of equally many names; see `run_parallel`."""
    # Imported late: `cas run` loads this module, and an overlay needs no workers.
    from cas.system.workers import run_parallel

    run_parallel(work, items, on_result, weight=weight, min_weight=MIN_NAMES_PER_WORKER)


@contextmanager
def batched_counts(emit_count: Callable[[int], None]) -> Iterator[Callable[[int], None]]:
    """Yield a function that adds up counts and passes their sum on, a batch at a time."""
    pending = 0

    def add(count: int) -> None:
        nonlocal pending
        pending += count
        if pending >= PROGRESS_BATCH_NAMES:
            emit_count(pending)
            pending = 0

    yield add
    if pending:
        emit_count(pending)
