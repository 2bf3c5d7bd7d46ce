"""How the text of two files differs, as `diff -u` shows it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from cas.content.differences import Difference
from cas.model.manifest import Entry, Kind
from cas.system.files import open_file
from cas.system.text import quoted

_LARGEST = 1 << 20
_MOST = 10_000
"""Files of more bytes, or lines, are not compared: difflib takes time by the square."""
_CONTROL = re.compile(
    r"[\0-\x08\x0b\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|\r(?!\n)"
)
"""What controls a terminal, or the direction of text."""


def unified(difference: Difference, before: bytes, after: bytes) -> list[str] | None:
    """Return the lines by which a file differs in the trees at two paths, without their ends.

    None if there is nothing to show: it is no file on both sides (or none on one), has other bits
    only, is long, or is not text: UTF-8, and nothing in it that controls a terminal.

    Raises OSError.
    """
    import difflib

    old, new = _lines(difference.before, before), _lines(difference.after, after)
    if old is None or new is None or old == new:
        return None
    path = quoted(difference.path)
    end = "\t" if " " in path else ""  # else patch(1) would take what is before the blank
    names = (
        "/dev/null" if difference.before is None else f"a/{path}{end}",
        "/dev/null" if difference.after is None else f"b/{path}{end}",
    )
    return list(_ended(difflib.unified_diff(old, new, *names)))


def _lines(entry: Entry | None, root: bytes) -> list[str] | None:
    """Return the lines of a file, with their ends; none of one that is not there."""
    if entry is None:
        return []
    if entry.kind is not Kind.FILE or entry.size > _LARGEST:
        return None
    try:
        with open(open_file(os.path.join(root, entry.path)), "rb") as file:
            text = file.read(entry.size + 1).decode()
    except ValueError:  # it is not UTF-8, or no file any more
        return None
    if _CONTROL.search(text):
        return None
    *lines, last = text.split("\n")  # as diff(1) does it, and not str.splitlines()
    if len(lines) > _MOST:
        return None
    return [f"{line}\n" for line in lines] + ([last] if last else [])


def _ended(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.endswith("\n"):
            yield line[:-1]
        else:
            yield from (line, "\\ No newline at end of file")
