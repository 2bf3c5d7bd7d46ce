"""How far something is, for who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")
Progress = Callable[[int, int, int], None]
"""Gets how many things are done, of how many (0 if nobody knows), and how many bytes they had."""


def no_progress(done: int, total: int, size: int) -> None:
    """Be a Progress that nobody looks at."""


def either(
    take: Callable[[_Result], None], moved: Callable[[int], None]
) -> Callable[[_Result | int], None]:
    """Return what takes results, and numbers of bytes, of one worker."""

    def take_either(one: _Result | int) -> None:
        if isinstance(one, int):
            moved(one)
        else:
            take(one)

    return take_either


def counted(progress: Progress, total: int) -> Callable[[int], None]:
    """Return a function that is told how many more of `total` are done, and tells `progress`."""
    done = 0

    def take(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total, 0)

    return take
