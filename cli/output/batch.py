"""Batch progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from cli.output.interruption import GOES_ON, summary_on_interrupt
from cli.output.progress import progress

_Done = TypeVar("_Done")


@contextlib.contextmanager
def gathering(
    label: str, things: str, wanted: int, done: list[_Done]
) -> Iterator[tuple[Callable[[_Done], None], Callable[[int], None]]]:
    """Yield two callbacks, for a finished item and for bytes; both update the progress bar.

    If the block is interrupted or fails, the message counts the finished items.
    """
    total = 0

    def told() -> str:
        return f"{len(done)} of {wanted} {things} were done; {GOES_ON}"

    with summary_on_interrupt(told, of_errors=True), progress(label, things) as shown:

        def take(one: _Done) -> None:
            done.append(one)
            moved(0)

        def moved(size: int) -> None:
            nonlocal total
            total += size
            shown.update(len(done), wanted, total)

        yield take, moved
