"""HTML of text, numbers, tables and collapsible parts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cas.system.text import quoted

_MAX_LETTERS = 200


def text(value: bytes | str) -> str:
    """Escape text from outside, such as a path, as one line of HTML; shorten long text."""
    shown = quoted(value)
    return escape(shown if len(shown) <= _MAX_LETTERS else shown[: _MAX_LETTERS - 1] + "…")


def amount(number: int) -> str:
    """Return a number for people, with `million` or `billion` for large ones."""
    for word, unit in (("billion", 10**9), ("million", 10**6)):
        if number >= 10 * unit:
            return f"{number / unit:,.0f} {word}"
    return f"{number:,}"


def percent(part: int, whole: int) -> str:
    """Return a percentage, rounded down, so that only a whole is 100 %."""
    return f"{100 * part // whole} %"


def collapsible(title: str, body: str) -> str:
    """Return HTML that is shown when the reader opens it."""
    return f"<details><summary>{title}</summary>\n{body}</details>\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of rows of HTML cells.

    In the header, `-` marks columns that a phone does not show.
    """
    classes = [' class="less"' if name.startswith("-") else "" for name in head]

    def row(cells: Sequence[str], tag: str) -> str:
        inside = "".join(
            f"<{tag}{mark}>{cell}</{tag}>" for cell, mark in zip(cells, classes, strict=True)
        )
        return f"<tr>{inside}</tr>\n"

    names = [name.removeprefix("-") for name in head]
    body = "".join(row(cells, "td") for cells in rows)
    return (
        f'<div class="scroll"><table>\n<thead>{row(names, "th")}</thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )
