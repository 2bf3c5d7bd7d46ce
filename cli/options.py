"""What commands share: the store, IDs from files, and printing data."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import click

from cas.locating import located
from cas.quoting import quoted
from cas.store import Store
from cli.crashes import crashes_told
from cli.settings import store_path, use_settings

STANDARD_OUTPUT = b"standard output"
_NUMBER = re.compile(r"[0-9.]+( bytes| [KMGT]iB)?")
_QUIET = "cas.quiet"
_Function = TypeVar("_Function", bound=Callable[..., Any])


def open_store(ctx: click.Context, *, create: bool = False) -> Store:
    """Open the store; it is closed when the command ends. Raises what Store raises."""
    path = store_path(ctx)
    ctx.with_resource(crashes_told(path))
    return ctx.with_resource(Store(path, create=create))


def remember_store(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    """Keep the value of --store, before or after the command, for `store_path`.

    What that store's configuration says is used for other options then.
    """
    if value is not None:
        ctx.find_root().obj = value
    if ctx.parent is not None:
        use_settings(ctx)


def _remember_quiet(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.find_root().meta[_QUIET] = value or is_quiet()


def is_quiet() -> bool:
    """Tell whether the command is to say nothing but data and errors."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.find_root().meta.get(_QUIET))


def store_option(function: _Function) -> _Function:
    """Add what all commands have: --store and --quiet."""
    function = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        help="Say nothing but data and errors.",
        expose_value=False,
        callback=_remember_quiet,
    )(function)
    return click.option(
        "--store",
        metavar="DIR",
        help="The directory of the store.",
        expose_value=False,
        callback=remember_store,
        is_eager=True,
    )(function)


def complete_id(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the recipes in the store that begin like that, for a shell; the IDs of one only.

    All of them are links in `artifacts/`, so no index is opened for it.
    """
    links = os.path.join(store_path(ctx), "artifacts")
    with contextlib.suppress(OSError):
        recipe, colon = incomplete.partition(":")[:2]
        recipes = sorted(
            name for name in os.listdir(links) if name.startswith(recipe) and not colon
        ) or [recipe]
        if len(recipes) > 1:
            return recipes
        ids = (f"{recipes[0]}:{rest}" for rest in os.listdir(os.path.join(links, recipes[0])))
        return sorted(id_ for id_ in ids if id_.startswith(incomplete))
    return []


def json_option(function: _Function) -> _Function:
    """Add --json to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(
        function
    )


def remote_option(function: _Function) -> _Function:
    """Add --remote to a command that needs artifacts."""
    return click.option(
        "--remote", metavar="REMOTE", help="Pull whole IDs that are missing here from there first."
    )(function)


def open_pulled(ctx: click.Context, remote: str | None, names: Iterable[str]) -> Store:
    """Open the store, with what is missing pulled if there is a --remote.

    Raises what `open_store` and `pulled` raise.
    """
    store = open_store(ctx, create=remote is not None)
    pulled(ctx, store, remote, names)
    return store


def pulled(ctx: click.Context, store: Store, remote: str | None, names: Iterable[str]) -> None:
    """Pull what is missing, if there is a --remote. Raises InputRefused, BadConfig, OSError."""
    if remote is not None:
        from cli.remotes import pull_missing

        pull_missing(ctx, store, remote, names)


def emit(as_json: bool, document: object, lines: Iterable[str]) -> None:
    """Print data: the document with --json, else the lines."""
    with located(STANDARD_OUTPUT):
        if as_json:
            print(json.dumps(document, indent=2))
        else:
            for line in lines:
                print(line)


def note(text: str) -> None:
    """Say something to a person, beside the data, unless with --quiet."""
    if not is_quiet():
        print(f"cas: note: {text}", file=sys.stderr)


def _is_watched() -> bool:
    """Tell whether a person looks on, who wants to see how far something is."""
    return sys.stderr.isatty() and not is_quiet()


@contextlib.contextmanager
def progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Show how many steps of `length` are done, to a person at a terminal.

    Gives a function to be told how many more are.
    """
    if not length or not _is_watched():
        yield lambda count: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


@contextlib.contextmanager
def byte_progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Show how many artifacts of `length` are done, how many bytes that were, and how fast.

    Gives a function to be told when one more is done, and its bytes.
    """
    if not length or not _is_watched():
        yield lambda count: None
        return
    from cli.quantities import size_text

    total, began = 0, time.monotonic()

    def shown(size: int | None) -> str:
        rate = int(total / max(time.monotonic() - began, 0.001))
        return f"{size_text(total)}, {size_text(rate)}/s"

    def step(size: int) -> None:
        nonlocal total
        total += size
        bar.update(1, size)

    with click.progressbar(
        length=length, label=label, file=sys.stderr, show_pos=True, item_show_func=shown
    ) as bar:
        yield step


def read_ids(path: str) -> list[str]:
    """Read IDs, one a line, from a file or with `-` from the standard input.

    Blank lines, and lines that begin with `#`, are passed over. Raises OSError.
    """
    stripped = [line.strip() for line in read_text(path).splitlines()]
    return [line for line in stripped if line and not line.startswith("#")]


def read_text(path: str) -> str:
    """Read a file, or with `-` the standard input. Raises OSError."""
    if path == "-":
        return sys.stdin.read()
    with open(path, errors="surrogateescape") as file:
        return file.read()


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
    """Return a path as text on one line; see `cas.quoting.quoted`."""
    return quoted(path)


def time_of(nanoseconds: int) -> str:
    """Return a time, in nanoseconds since 1970, as text in UTC."""
    import datetime

    moment = datetime.datetime.fromtimestamp(nanoseconds // 10**9, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
