"""Charts of results, as SVG that reads well on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from benchmark.measuring import Measured, Table
from benchmark.reporting import shown

_WIDTH, _NAMES, _VALUES = 760, 210, 80  # pixels: everything, the names, the values
_ROW, _BAR, _TOP = 26, 16, 40
_COLOURS = ("#3b82c4", "#e0883a", "#5aa469", "#b45a6e", "#8a74b8", "#8c8c8c", "#c9a227", "#4aa8a8")
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #222 }
.title { font-weight: 600 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } }
"""


def draw(tables: Sequence[Table], directory: Path) -> Iterator[Path]:
    """Write a chart of each table that has one; yield the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    for table in tables:
        if table.job in ("assemble", "store"):
            text = _logarithmic(table, table.columns()[0])
        elif table.job == "use":
            text = _stacked(table, [step for step in table.columns() if step != "sum"])
        else:
            continue
        path = directory / f"{table.job}-{table.file_system}.svg"
        path.write_text(text)
        yield path


def _logarithmic(table: Table, step: str) -> str:
    """Draw one bar for each contender, on a logarithmic scale."""
    rows = [(row, value) for row in table.rows if (value := row.median(step))]
    least = math.floor(math.log10(min(value for _, value in rows)))
    most = math.log10(max(value for _, value in rows))
    scale = (_WIDTH - _NAMES - _VALUES) / (most - least)
    body = [_title(f"{table.title} ({table.file_system}, logarithmic)")]
    for number, (row, value) in enumerate(rows):
        width = (math.log10(value) - least) * scale
        body += _bar(number, row, [(width, _colour_of(row))], shown(value, step))
    return _svg(body, len(rows))


def _stacked(table: Table, steps: Sequence[str]) -> str:
    """Draw one bar for each contender, divided into its steps, and a legend."""
    rows = [row for row in table.rows if not row.failure]
    totals = [sum(row.median(step) or 0 for step in steps) for row in rows]
    scale = (_WIDTH - _NAMES - _VALUES) / max(totals)
    body = [_title(f"{table.title} ({table.file_system})")]
    for number, (row, total) in enumerate(zip(rows, totals, strict=True)):
        parts = [
            ((row.median(step) or 0) * scale, _COLOURS[place % len(_COLOURS)])
            for place, step in enumerate(steps)
        ]
        body += _bar(number, row, parts, shown(row.median("sum") or total, "sum"))
    body += _key(steps, _TOP + len(rows) * _ROW)
    return _svg(body, len(rows) + (len(steps) + 3) // 4)


def _key(steps: Sequence[str], top: int) -> Iterator[str]:
    for place, step in enumerate(steps):
        x, y = 10 + place % 4 * (_WIDTH // 4), top + place // 4 * _ROW
        yield f'<rect x="{x}" y="{y}" width="12" height="12" fill="{_COLOURS[place]}"/>'
        yield f'<text x="{x + 18}" y="{y + 11}">{escape(step)}</text>'


def _colour_of(row: Measured) -> str:
    ours = row.contender.startswith(("cas", "mounter"))
    return _COLOURS[0] if ours else _COLOURS[5]


def _bar(
    number: int, row: Measured, parts: Sequence[tuple[float, str]], value: str
) -> Iterator[str]:
    y = _TOP + number * _ROW
    yield f'<text x="{_NAMES - 8}" y="{y + 13}" text-anchor="end">{escape(row.contender)}</text>'
    x = float(_NAMES)
    for width, colour in parts:
        yield f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
        x += width
    yield f'<text x="{x + 6:.1f}" y="{y + 13}">{escape(value)}</text>'


def _title(text: str) -> str:
    return f'<text x="10" y="22" class="title">{escape(text)}</text>'


def _svg(body: Sequence[str], rows: int) -> str:
    height = _TOP + rows * _ROW + 8
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *body, "</svg>", ""])
