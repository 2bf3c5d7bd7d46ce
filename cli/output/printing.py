"""Printing of data, notes, details and tables."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence

import click

from cas.system.oserrors import adding_path
from cas.system.text import quoted
from cli.output.errors import marked

STANDARD_OUTPUT = b"standard output"
_NUMBER = re.compile(r"(-?[0-9.]+( bytes| [KMGT]iB)?)?")
_QUIET, _VERBOSE = "cas.quiet", "cas.verbose"


def is_quiet() -> bool:
    """Return whether to print only data and errors."""
    return _is_given(_QUIET)


def is_verbose() -> bool:
    """Return whether to print details; see `detail`."""
    return _is_given(_VERBOSE)


def _is_given(key: str) -> bool:
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.find_root().meta.get(key))


def emit(as_json: bool, document: object, lines: Iterable[str]) -> None:
    """Print data: the document with --json, else the lines."""
    with adding_path(STANDARD_OUTPUT):
        if as_json:
            print(json.dumps(document, indent=2))
        else:
            for line in lines:
                print(line)


def acknowledge(as_json: bool, document: object, lines: Iterable[str]) -> None:
    """Print a result: the document with --json, else the lines, unless with --quiet."""
    emit(as_json, document, () if is_quiet() else lines)


def note(text: str) -> None:
    """Print a note to standard error, unless with --quiet."""
    if not is_quiet():
        print(marked(f"cas: note: {text}", error=False), file=sys.stderr)


def detail(text: str) -> None:
    """With --verbose, print a detail to standard error."""
    if is_verbose():
        print(f"cas: {text}", file=sys.stderr)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows in columns, numbers and sizes to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    numeric = [
        bool(rows) and all(_NUMBER.fullmatch(row[i]) for row in rows) for i in range(len(header))
    ]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]


def text_of(path: bytes | str) -> str:
    """Return a path as text on one line; see `cas.system.text.quoted`."""
    return quoted(path)


def time_of(nanoseconds: int) -> str:
    """Return a time, in nanoseconds since 1970, as text in UTC."""
    import datetime

    moment = datetime.datetime.fromtimestamp(nanoseconds // 10**9, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
