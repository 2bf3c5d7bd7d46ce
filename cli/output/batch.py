"""Progress and results of commands that process many items."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from cli.output.interruption import RESUMABLE, summary_on_interrupt
from cli.output.progress import progress

_Done = TypeVar("_Done")


@contextlib.contextmanager
def collecting(
    label: str, things: str, total: int, done: list[_Done]
) -> Iterator[tuple[Callable[[_Done], None], Callable[[int], None]]]:
    """Yield two callbacks, for a finished item and for bytes; both update the progress bar.

    Finished items are appended to `done`. If the block is interrupted or fails, the message counts
    them.
    """
    moved_bytes = 0

    def summary() -> str:
        return f"{len(done)} of {total} {things} were done; {RESUMABLE}"

    with summary_on_interrupt(summary, of_errors=True), progress(label, things) as shown:

        def on_result(item: _Done) -> None:
            done.append(item)
            on_bytes(0)

        def on_bytes(size: int) -> None:
            nonlocal moved_bytes
            moved_bytes += size
            shown.update(len(done), total, moved_bytes)

        yield on_result, on_bytes
