"""What commands share: the store, IDs from files, and printing data."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import click

from cas.store import Store
from cli.options.settings import store_and_origin, store_path, use_settings
from cli.output.crashes import crashes_reported
from cli.output.printing import _QUIET, _VERBOSE, detail, is_verbose, text_of

_Function = TypeVar("_Function", bound=Callable[..., Any])


def open_store(ctx: click.Context, *, create: bool = False) -> Store:
    """Open the store; it is closed when the command ends. Raises what Store raises."""
    path = resolve_store_path(ctx)
    ctx.with_resource(crashes_reported(path))
    return ctx.with_resource(Store(path, create=create))


def resolve_store_path(ctx: click.Context) -> str:
    """Return the path of the store, and with --verbose tell which that is, and why."""
    path, source = store_and_origin(ctx)
    if is_verbose():
        detail(f"the store is {text_of(os.path.realpath(path))} ({source})")
    return path


def remember_store(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    """Keep the value of --store, before or after the command, for `store_path`.

    What that store's configuration says is used for other options then.
    """
    if value is not None:
        ctx.find_root().obj = value
    if ctx.parent is not None:
        use_settings(ctx)


def _remember(key: str, ctx: click.Context, _: click.Parameter, value: bool) -> None:
    said = ctx.find_root().meta
    said[key] = value or bool(said.get(key))
    if said.get(_QUIET) and said.get(_VERBOSE):
        raise click.UsageError("give --quiet or --verbose, not both", ctx)


def store_option(function: _Function) -> _Function:
    """Add what all commands have: --store, --quiet and --verbose."""
    function = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        help="Say also what is used, and how long it takes.",
        expose_value=False,
        callback=partial(_remember, _VERBOSE),
    )(function)
    function = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        help="Say nothing but data and errors.",
        expose_value=False,
        callback=partial(_remember, _QUIET),
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


def complete_sysroot(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return what the last ID of PATH=ID,ID... may be, for a shell; see `complete_id`."""
    path, equals, ids = incomplete.partition("=")
    before, comma, last = ids.rpartition(",")
    found = complete_id(ctx, param, last) if equals else []
    return [f"{path}={before}{comma}{one}" for one in found]


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
        from cli.options.remotes import pull_missing

        pull_missing(ctx, store, remote, names)


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
