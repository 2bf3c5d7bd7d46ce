"""Options of commands that compose: IDs, conflicts, strategies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar

import click

from cas.compose.composition import Composition
from cas.model.conflicts import ConflictPolicy
from cas.store import Store
from cli.options.common import complete_id, read_ids
from cli.output.printing import is_quiet
from mounter.plan import Strategy

STRATEGIES = [s.value for s in Strategy if s is not Strategy.LINKED]
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Overlaps(TypedDict):
    """The values of `conflict_options`."""

    conflicts: str
    allow_overlap: tuple[str, ...]
    allow_overlap_from: tuple[str, ...]


def ids_options(function: _Function) -> _Function:
    """Add ID... and --from to a command."""
    function = click.option(
        "--from", "from_file", metavar="FILE", help="Read IDs from FILE, one a line (- stdin)."
    )(function)
    return click.argument("ids", metavar="ID...", nargs=-1, shell_complete=complete_id)(function)


def names_of(ctx: click.Context, ids: Sequence[str], from_file: str | None) -> list[str]:
    """Return the IDs of --from and of the command line. Raises UsageError, OSError."""
    if not ids and from_file is None:
        raise click.UsageError("give IDs, or a file of them with --from", ctx)
    return [*(read_ids(from_file) if from_file is not None else ()), *ids]


def conflict_options(function: _Function) -> _Function:
    """Add the options for conflicts; the command is called with the keywords of Overlaps."""
    for option in (
        click.option(
            "--allow-overlap-from",
            metavar="FILE",
            multiple=True,
            help="Read such globs from FILE, one a line.",
        ),
        click.option(
            "--allow-overlap",
            metavar="GLOB",
            multiple=True,
            help="Accept conflicts at these paths; name a hidden directory exactly.",
        ),
        click.option(
            "--conflicts",
            type=click.Choice([policy.value for policy in ConflictPolicy]),
            default=ConflictPolicy.WARN.value,
            show_default=True,
            help="What to do if artifacts conflict at a path.",
        ),
    ):
        function = option(function)
    return function


def mounting_options(function: _Function) -> _Function:
    """Add --rw, --upper and --strategy."""
    for option in (
        click.option(
            "--strategy",
            type=click.Choice(STRATEGIES),
            default="auto",
            help="Make TARGET by this strategy.",
        ),
        click.option(
            "--upper",
            metavar="DIR",
            help="Make TARGET writable, and keep the changes in DIR/upper.",
        ),
        click.option(
            "--rw", is_flag=True, help="Make TARGET writable; umount discards the changes."
        ),
    ):
        function = option(function)
    return function


def compose(store: Store, names: Sequence[str], purpose: str, overlaps: Overlaps) -> Composition:
    """Compose, and report conflicts on standard error. Raises what Store.compose raises."""
    files = overlaps["allow_overlap_from"]
    composition = store.compose(
        names,
        conflicts=ConflictPolicy(overlaps["conflicts"]),
        allow=[*overlaps["allow_overlap"], *(glob for file in files for glob in read_ids(file))],
        purpose=purpose,
    )
    if composition.conflicts and not is_quiet():
        for conflict in composition.conflicts:
            print(f"cas: conflict: {conflict}", file=sys.stderr)
        count = len(composition.conflicts)
        print(
            f"cas: {count} conflict{'s' if count > 1 else ''}"
            " (--allow-overlap GLOB accepts those that are known)",
            file=sys.stderr,
        )
    return composition
