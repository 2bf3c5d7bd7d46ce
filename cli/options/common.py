"""Options shared by most commands, and reading of IDs from files."""

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
from cli.output.debug_output import show_debug_messages_if_asked
from cli.output.printing import _QUIET, _VERBOSE, detail, is_verbose, text_of

_Function = TypeVar("_Function", bound=Callable[..., Any])


def open_store(ctx: click.Context, *, create: bool = False) -> Store:
    """Open the store; it is closed when the command ends. Raises what Store raises."""
    path = resolve_store_path(ctx)
    ctx.with_resource(crashes_reported(path))
    return ctx.with_resource(Store(path, create=create))


def resolve_store_path(ctx: click.Context) -> str:
    """Return the path of the store; with --verbose, print it and its origin."""
    path, source = store_and_origin(ctx)
    if is_verbose():
        detail(f"the store is {text_of(os.path.realpath(path))} ({source})")
    return path


def remember_store(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    """Keep the value of --store, before or after the command, for `store_path`.

    The configuration of that store then sets the defaults of other options.
    """
    if value is not None:
        ctx.find_root().obj = value
    if ctx.parent is not None:
        use_settings(ctx)


def _remember(key: str, ctx: click.Context, _: click.Parameter, value: int) -> None:
    """Keep the value of --quiet or --verbose, before or after the command, for all that prints."""
    levels = ctx.find_root().meta
    levels[key] = max(value, levels.get(key, 0))
    if levels.get(_QUIET) and levels.get(_VERBOSE):
        raise click.UsageError("give --quiet or --verbose, not both", ctx)
    # An error in the options of a command, not of `cas`, lets `cas run` choose its exit code.
    if key == _VERBOSE and ctx.parent is not None and not ctx.resilient_parsing:
        show_debug_messages_if_asked(ctx, levels[key])


def store_option(function: _Function) -> _Function:
    """Add --store, --quiet and --verbose, which all commands have."""
    function = click.option(
        "-v",
        "--verbose",
        count=True,
        help="Also print the store and timings; -vv prints debug messages, too.",
        expose_value=False,
        callback=partial(_remember, _VERBOSE),
    )(function)
    function = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        help="Print only data and errors.",
        expose_value=False,
        callback=partial(_remember, _QUIET),
    )(function)
    return click.option(
        "--store",
        metavar="DIR",
        help="Use the store in DIR.",
        expose_value=False,
        callback=remember_store,
        is_eager=True,
    )(function)


def complete_id(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the recipes that begin with `incomplete`; if only one does, its IDs.

    They are read from the links in `artifacts/`: opening the index would delay the shell.
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
    """Return completions of the last ID in PATH=ID,ID...; see `complete_id`."""
    path, equals, ids = incomplete.partition("=")
    before, comma, last = ids.rpartition(",")
    completed = complete_id(ctx, param, last) if equals else []
    return [f"{path}={before}{comma}{id_}" for id_ in completed]


def json_option(function: _Function) -> _Function:
    """Add --json to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(
        function
    )


def standard_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json and the options of `store_option`; the command gets the context first."""
    return json_option(store_option(click.pass_context(function)))


def remote_option(function: _Function) -> _Function:
    """Add --remote to a command that needs artifacts."""
    return click.option(
        "--remote",
        metavar="REMOTE",
        help="Pull missing artifacts from REMOTE first; needs complete IDs.",
    )(function)


def open_pulled(ctx: click.Context, remote: str | None, names: Iterable[str]) -> Store:
    """Open the store; with --remote, pull missing artifacts first.

    Raises what `open_store` and `pulled` raise.
    """
    store = open_store(ctx, create=remote is not None)
    pulled(ctx, store, remote, names)
    return store


def pulled(ctx: click.Context, store: Store, remote: str | None, names: Iterable[str]) -> None:
    """With --remote, pull missing artifacts. Raises InputRefused, BadConfig, OSError."""
    if remote is not None:
        from cli.options.remotes import pull_missing

        pull_missing(ctx, store, remote, names)


def read_ids(path: str) -> list[str]:
    """Read IDs, one a line, from a file, or from standard input if `path` is `-`.

    Blank lines and lines that begin with `#` are skipped. Raises OSError.
    """
    stripped = [line.strip() for line in read_text(path).splitlines()]
    return [line for line in stripped if line and not line.startswith("#")]


def read_text(path: str) -> str:
    """Read a file, or with `-` the standard input. Raises OSError."""
    if path == "-":
        return sys.stdin.read()
    with open(path, errors="surrogateescape") as file:
        return file.read()
