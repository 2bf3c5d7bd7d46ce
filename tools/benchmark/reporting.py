"""Results as Markdown tables and as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmark.measuring import Measured, Table

_NO_TIMES = ("MiB", "/s")
"""Suffixes of steps whose values are not times, by unit."""
_UNITS = ((1, "s"), (1e3, "ms"), (1e6, "µs"))


def lines(table: Table) -> Iterator[str]:
    """Yield a table as Markdown: medians, and in brackets the ratio to the first row."""
    columns = table.columns()
    yield f"### {table.title} ({table.file_system})"
    yield ""
    cells = [["", *columns]]
    cells += [[row.contender, *_cells(row, table.rows[0], columns)] for row in table.rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns) + 1)]
    rule = ["-" * width for width in widths]
    cells.insert(1, [rule[0], *(dashes[1:] + ":" for dashes in rule[1:])])
    for line in cells:
        yield "| " + " | ".join(map(_padded, line, widths, range(len(line)))) + " |"
    for row in table.rows:
        if row.failure:
            yield f"\n{row.contender}: {row.failure}"
    yield ""


def _padded(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column else text.ljust(width)


def _cells(row: Measured, first: Measured, columns: Iterable[str]) -> Iterator[str]:
    for step in columns:
        value, base = row.median(step), first.median(step)
        if value is None:
            yield "failed" if row.failure else ""
        elif row is first or not base:
            yield shown(value, step)
        else:
            yield f"{shown(value, step)} ({_ratio(value / base)})"


def _ratio(ratio: float) -> str:
    return f"x{ratio:.0f}" if ratio >= 10 else f"x{ratio:.2g}"


def shown(value: float, step: str) -> str:
    """Return a value of a step for people."""
    for unit in _NO_TIMES:
        if step.endswith(unit):
            return f"{value:.0f} {unit}" if unit == "MiB" else f"{value:.1f}"
    factor, unit = next(((f, u) for f, u in _UNITS if value * f >= 1), _UNITS[-1])
    return f"{value * factor:.3g} {unit}"


def document(tables: Iterable[Table], **settings: Any) -> dict[str, Any]:
    """Return everything as JSON: the machine, and each value of each round, in seconds.

    The values of a step whose name ends in a unit are in that unit.
    """
    return {
        "machine": machine(),
        "settings": settings,
        "tables": [
            {
                "job": table.job,
                "title": table.title,
                "file_system": table.file_system,
                "contenders": [
                    {"name": row.contender, "values": row.values, "failure": row.failure or None}
                    for row in table.rows
                ],
            }
            for table in tables
        ],
    }


def machine() -> dict[str, Any]:
    """Return properties of the machine that the figures depend on."""
    processor = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processor": processor[0] if processor else platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
    }


def write_json(path: Path, tables: Iterable[Table], **settings: Any) -> None:
    """Write `document` to a file."""
    path.write_text(json.dumps(document(tables, **settings), indent=1) + "\n")
