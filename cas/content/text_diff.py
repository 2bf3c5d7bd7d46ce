"""Unified diffs of text files, like `diff -u`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from cas.content.differences import Difference
from cas.model.manifest import Entry, Kind
from cas.system.files import open_file
from cas.system.text import quoted

_MAX_BYTES = 1 << 20
_MAX_LINES = 10_000
"""Larger files are not compared: difflib takes quadratic time."""
_CONTROL = re.compile(
    r"[\0-\x08\x0b\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|\r(?!\n)"
)
"""Characters that control a terminal or the direction of text."""


def unified(difference: Difference, before: bytes, after: bytes) -> list[str] | None:
    """Return the lines of the diff of a file in two trees, without line ends.

    `before` and `after` are the paths of the trees. Returns None if there is nothing to show: an
    entry is not a file, only the executable bit differs, or the file is too large or not text
    (UTF-8 without control characters). Raises OSError.
    """
    import difflib

    old, new = _lines(difference.before, before), _lines(difference.after, after)
    if old is None or new is None or old == new:
        return None
    path = quoted(difference.path)
    end = "\t" if " " in path else ""  # patch(1) would end the name at the blank
    names = (
        "/dev/null" if difference.before is None else f"a/{path}{end}",
        "/dev/null" if difference.after is None else f"b/{path}{end}",
    )
    return list(_ended(difflib.unified_diff(old, new, *names)))


def _lines(entry: Entry | None, root: bytes) -> list[str] | None:
    """Return the lines of a file with their ends, none if it is missing, or None if it is unfit."""
    if entry is None:
        return []
    if entry.kind is not Kind.FILE or entry.size > _MAX_BYTES:
        return None
    try:
        with open(open_file(os.path.join(root, entry.path)), "rb") as file:
            text = file.read(entry.size + 1).decode()
    except ValueError:  # it is not UTF-8, or not a regular file now
        return None
    if _CONTROL.search(text):
        return None
    *lines, last = text.split("\n")  # like diff(1); str.splitlines() splits at more
    if len(lines) > _MAX_LINES:
        return None
    return [f"{line}\n" for line in lines] + ([last] if last else [])


def _ended(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.endswith("\n"):
            yield line[:-1]
        else:
            yield from (line, "\\ No newline at end of file")
