"""The squarified treemap of Bruls, Huizing and van Wijk (2000).

It fills a box with rows along the shorter side. A row grows as long as its rectangles become more
like squares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle, from its upper left corner."""

    x: float
    y: float
    width: float
    height: float


def squarified(sizes: Sequence[float], box: Box) -> Iterator[Box]:
    """Yield a rectangle in `box` for each size, with a proportional area, in the same order.

    Sizes are positive. Descending sizes give the best shapes.
    """
    left = list(sizes)
    while left:
        scale = (
            box.width * box.height / sum(left)
        )  # for each row, so that rounding errors do not add up
        side = min(box.width, box.height)
        areas = [size * scale for size in left]
        count = 1
        while count < len(areas) and _worst(areas[: count + 1], side) <= _worst(
            areas[:count], side
        ):
            count += 1
        yield from _row(areas[:count], box)
        box = _rest(sum(areas[:count]), box)
        del left[:count]


def _worst(areas: Sequence[float], side: float) -> float:
    """Return the largest aspect ratio in a row along a side of that length."""
    thick = sum(areas) / side
    return max(max(area / thick**2, thick**2 / area) for area in areas)


def _row(areas: Sequence[float], box: Box) -> Iterator[Box]:
    """Yield the rectangles of a row at the left of the box, or at the top of an upright box."""
    upright = box.width < box.height
    thick = sum(areas) / min(box.width, box.height)
    place = 0.0
    for area in areas:
        length = area / thick
        if upright:
            yield Box(box.x + place, box.y, length, thick)
        else:
            yield Box(box.x, box.y + place, thick, length)
        place += length


def _rest(row: float, box: Box) -> Box:
    """Return the rest of the box beside a row of that area."""
    if box.width >= box.height:
        thick = min(row / box.height, box.width)
        return Box(box.x + thick, box.y, box.width - thick, box.height)
    thick = min(row / box.width, box.height)
    return Box(box.x, box.y + thick, box.width, box.height - thick)
