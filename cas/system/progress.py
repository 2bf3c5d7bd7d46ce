"""Progress reporting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


class Progress:
    """Callbacks of a long operation. This class ignores them; a subclass may show them."""

    __slots__ = ()

    def update(self, done: int, total: int = 0, size: int = 0) -> None:
        """Report that `done` of `total` items (0 if unknown) and `size` bytes are processed."""

    def alive(self) -> None:
        """Report that an operation still works that has nothing to count."""

    def committed(self) -> None:
        """Report that the records are deleted: the removal counts, even if interrupted."""


NO_PROGRESS = Progress()


def counter(progress: Progress, total: int) -> Callable[[int], None]:
    """Return a function that adds a number to the items done, and reports them to `progress`."""
    done = 0

    def add(number: int) -> None:
        nonlocal done
        done += number
        progress.update(done, total)

    return add


def result_or_bytes(
    on_result: Callable[[_Result], None], on_bytes: Callable[[int], None]
) -> Callable[[_Result | int], None]:
    """Return a function for the output of a worker, which emits results and numbers of bytes."""

    def on_output(output: _Result | int) -> None:
        if isinstance(output, int):
            on_bytes(output)
        else:
            on_result(output)

    return on_output
