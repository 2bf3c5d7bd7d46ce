"""Charts as HTML and SVG: treemaps, bars, and columns and areas over days.

Shapes stretch with the page and text does not, so that both fit a phone. Colours are classes of
`page.css`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from cli.report_page.treemap import Box, squarified

WIDE, TALL = Box(0, 0, 2.2, 1), Box(0, 0, 0.85, 1)
"""The aspect ratios of a treemap on wide and on narrow pages, as in page.css."""
_LABELS = (3, 5, 8, 9)
"""Classes of text lengths; page.css shows text if its cell is wide enough for its class."""

_MAX_DAYS_WITH_TITLES = 100
"""With more days, a column is too narrow to point at, so it gets no title."""


class Cell(NamedTuple):
    """A cell of a treemap: its text, size, tooltip, and colour class."""

    name: str
    value: str
    size: int
    title: str
    colour: str


class Part(NamedTuple):
    """A part of a bar, and its colour class."""

    size: int
    colour: str


class Bar(NamedTuple):
    """A bar of parts, with the text before it (`name`) and after it (`value`)."""

    name: str
    parts: tuple[Part, ...]
    value: str


class Series(NamedTuple):
    """A value for each day, and their colour class."""

    values: tuple[int, ...]
    colour: str


class Axis(NamedTuple):
    """The days of a chart: labels, tooltips, and a function that formats values.

    A day without values has an empty tooltip.
    """

    days: tuple[str, ...]
    titles: tuple[str, ...]
    text: Callable[[int], str]


def treemap(cells: Sequence[Cell], label: str) -> str:
    """Draw cells in two aspect ratios, one of which page.css shows; `label` describes the chart."""
    sizes = [cell.size for cell in cells]
    wide, tall = (list(squarified(sizes, box)) for box in (WIDE, TALL))
    inside = "".join(
        f'<div class="cell {cell.colour}" title="{escape(cell.title)}" '
        f'style="{_place("w", one, WIDE)}{_place("t", other, TALL)}">'
        f'<b class="n{_letters(cell.name)}">{escape(cell.name)}</b>'
        f'<span class="n{_letters(cell.value)}">{escape(cell.value)}</span></div>\n'
        for cell, one, other in zip(cells, wide, tall, strict=True)
    )
    return f'<div class="map" role="img" aria-label="{escape(label)}">\n{inside}</div>\n'


def _place(form: str, box: Box, whole: Box) -> str:
    shares = zip("xywh", box, (whole.width, whole.height) * 2, strict=True)
    return "".join(f"--{form}{name}:{100 * part / of:.3f}%;" for name, part, of in shares)


def _letters(text: str) -> int:
    return next((number for number in _LABELS if len(text) <= number), _LABELS[-1])


def bars(rows: Sequence[Bar]) -> str:
    """Draw bars below each other; the longest takes the whole width."""
    most = max(sum(part.size for part in row.parts) for row in rows) or 1
    return f'<ul class="bars">\n{"".join(_bar(row, most) for row in rows)}</ul>\n'


def _bar(row: Bar, most: int) -> str:
    parts = "".join(
        f'<i class="{part.colour}" style="width:{100 * part.size / most:.2f}%"></i>'
        for part in row.parts
        if part.size
    )
    return (
        f'<li><span class="name">{escape(row.name)}</span>'
        f'<span class="bar">{parts}</span><span class="value">{escape(row.value)}</span></li>\n'
    )


def key(names: Sequence[tuple[str, str]]) -> str:
    """Draw a legend of colour classes and their names."""
    items = "".join(f'<li><i class="{colour}"></i>{escape(name)}</li>' for colour, name in names)
    return f'<ul class="key">{items}</ul>\n'


def columns(axis: Axis, up: Sequence[Series], down: Series | None, label: str) -> str:
    """Draw a column for each day: stacked series, and one that extends down from zero."""
    highest = max(map(sum, zip(*(series.values for series in up), strict=True)))
    top = nice(max(highest, *down.values) if down else highest, axis.text(1) == "1")
    drawn = []
    base = [0] * len(axis.days)
    for series in up:
        drawn.append(_columns(series, base, top))
        base = [low + value for low, value in zip(base, series.values, strict=True)]
    if down:
        drawn.append(_columns(down, [-value for value in down.values], top))
    return _frame(axis, "".join(drawn), [top, 0, -top] if down else _halved(top), label)


def area(axis: Axis, values: Sequence[int], label: str) -> str:
    """Draw the values at the beginning of the first day, and at the end of each day, as an area."""
    top = nice(max(values), axis.text(1) == "1")
    points = "L".join(f"{day} {_number(-value / top)}" for day, value in enumerate(values))
    return _frame(
        axis,
        f'<path class="area" d="M0 0L{points}L{len(values) - 1} 0z"/>'
        f'<path class="line" d="M{points}"/>',
        _halved(top),
        label,
    )


def _halved(top: int) -> list[int]:
    return [top, 0] if top % 2 else [top, top // 2, 0]


def nice(most: int, decimal: bool) -> int:
    """Round up to a round number, in units of 1000 if `decimal`, else of 1024."""
    unit, step = 1, 1000 if decimal else 1024
    while most > unit * step:
        unit *= step
    steps = (1, 2, 3, 4, 6, 8, 10, 20, 30, 40, 60, 80, 100, 200, 300, 400, 600, 800, step)
    return next(unit * number for number in steps if unit * number >= most)


def _columns(series: Series, base: Sequence[int], top: int) -> str:
    gap = 0.12 if len(base) <= 120 else 0
    parts = "".join(
        f"M{day + gap} {_number(-low / top)}h{_number(1 - 2 * gap)}"
        f"v{_number(-value / top)}h-{_number(1 - 2 * gap)}z"
        for day, (value, low) in enumerate(zip(series.values, base, strict=True))
        if value
    )
    return f'<path class="{series.colour}" d="{parts}"/>' if parts else ""


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") or "0"


def _frame(axis: Axis, drawn: str, ticks: Sequence[int], label: str) -> str:
    """Add axes to a drawing, in which a day is one wide, and the first tick is one high."""
    top, bottom, count = ticks[0], ticks[-1], len(axis.days)
    lowest = 1 if bottom < 0 else 0
    grid = "".join(f'<path class="grid" d="M0 {-tick / top}h{count}"/>' for tick in ticks)
    span = top - bottom
    numbers = "".join(
        f'<span style="top:{100 * (top - tick) / span:.1f}%">{escape(axis.text(abs(tick)))}</span>'
        for tick in ticks
    )
    return (
        f'<div class="plot"><div class="ticks" aria-hidden="true">{numbers}</div>'
        f'<svg viewBox="0 -1 {count} {1 + lowest}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{grid}{drawn}{"".join(_titles(axis, lowest))}</svg>'
        f'<div class="dates" aria-hidden="true">{"".join(_dates(axis.days))}</div></div>\n'
    )


def _titles(axis: Axis, lowest: int) -> Iterator[str]:
    if len(axis.titles) > _MAX_DAYS_WITH_TITLES:
        return
    for day, title in enumerate(axis.titles):
        if title:
            yield f'<path class="day" d="M{day} -1h1v{1 + lowest}h-1z">'
            yield f"<title>{escape(title)}</title></path>"


def _dates(days: Sequence[str]) -> Iterator[str]:
    shown = {0, len(days) - 1} | ({math.ceil(len(days) / 2) - 1} if len(days) > 4 else set())
    for day in sorted(shown):
        yield f"<span>{days[day]}</span>"
