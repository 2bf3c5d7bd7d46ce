"""HTML: text that somebody chose, tables, and what is folded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cas.system.text import quoted

_LONGEST = 200  # letters of a text that somebody chose


def text(value: bytes | str) -> str:
    """Return what somebody chose, such as a path, as HTML of one line, cut where it is too long."""
    shown = quoted(value)
    return escape(shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…")


def amount(number: int) -> str:
    """Return a number for a person, in words where its digits would only be counted."""
    for word, unit in (("billion", 10**9), ("million", 10**6)):
        if number >= 10 * unit:
            return f"{number / unit:,.0f} {word}"
    return f"{number:,}"


def percent(part: int, whole: int) -> str:
    """Return a part of a whole for a person; it is all of it only if nothing is missing."""
    return f"{100 * part // whole} %"


def folded(title: str, body: str) -> str:
    """Return HTML that is seen when somebody opens it."""
    return f"<details><summary>{title}</summary>\n{body}</details>\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of HTML, the first cell of each being what it is about.

    In the head `-` marks what a phone has no place for.
    """
    marked = [' class="less"' if name.startswith("-") else "" for name in head]

    def row(cells: Sequence[str], tag: str) -> str:
        inside = "".join(
            f"<{tag}{mark}>{cell}</{tag}>" for cell, mark in zip(cells, marked, strict=True)
        )
        return f"<tr>{inside}</tr>\n"

    names = [name.removeprefix("-") for name in head]
    body = "".join(row(cells, "td") for cells in rows)
    return (
        f'<div class="scroll"><table>\n<thead>{row(names, "th")}</thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )
