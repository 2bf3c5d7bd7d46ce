"""Random thirds of the long enumerations of faults; `--exhaustive` runs them wholly.

The seed is printed at the start of the tests, and `--fault-seed` sets it. Each test draws from the
seed and its own name, so it draws the same whichever tests run with it.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

_Fault = TypeVar("_Fault")

_PART = 3
_MIN_SAMPLE = 12

_seed: int | None = None


def sample_with(seed: int | None) -> None:
    """Set the seed of all samples; None lets enumerations run wholly."""
    global _seed
    _seed = seed


def _chance() -> random.Random:
    test, _, _ = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")  # without its phase
    return random.Random(f"{_seed} {test}")


def sample(faults: Sequence[_Fault]) -> list[_Fault]:
    """Return a random third of the faults, but at least 12, in their order."""
    if _seed is None or len(faults) <= _MIN_SAMPLE:
        return list(faults)
    count = max(_MIN_SAMPLE, -(-len(faults) // _PART))
    return [faults[index] for index in sorted(_chance().sample(range(len(faults)), count))]


def fault_numbers() -> Iterator[int]:
    """Yield the numbers of the calls that get a fault: 1, and a random third of those after it.

    The caller ends the iteration when a command ends before its call of that number.
    """
    if _seed is None:
        yield from itertools.count(1)
    chance = _chance()
    number = 1
    while True:
        yield number
        number += chance.randint(1, 2 * _PART - 1)
