"""`cas mount` and `cas umount`."""

from __future__ import annotations

import os

import click

from cli.options import (
    emit,
    json_option,
    open_store,
    read_ids,
    store_option,
    store_path,
    text_of,
)
from mounter.mounting import mount, umount
from mounter.plan import Strategy

_STRATEGIES = [s.value for s in Strategy if s is not Strategy.LINKED]


@click.command("mount")
@click.argument("target", type=click.Path())
@click.argument("ids", metavar="ID...", nargs=-1)
@click.option(
    "--from", "from_file", metavar="FILE", help="Read IDs from FILE, one a line (- stdin)."
)
@click.option("--strategy", type=click.Choice(_STRATEGIES), default="auto", help="How to make it.")
@json_option
@store_option
@click.pass_context
def mount_command(
    ctx: click.Context,
    target: str,
    ids: tuple[str, ...],
    from_file: str | None,
    strategy: str,
    as_json: bool,
) -> None:
    """Make a composition appear at TARGET, read-only.

    A later ID wins over an earlier one; those of --from come before those given here. TARGET is
    made if it is missing, and must be empty otherwise. Prints the strategy that was used, and
    why no better one was.

    \b
    cas mount build/recipe-sysroot glibc zlib openssl
    cas mount build/recipe-sysroot --from deps.txt
    """
    if not ids and from_file is None:
        raise click.UsageError("give IDs, or a file of them with --from", ctx)
    names = [*(read_ids(from_file) if from_file is not None else ()), *ids]
    with open_store(ctx).compose(names) as composition:
        made = mount(composition, target, Strategy(strategy))
    why = f" ({'; '.join(made.reasons)})" if made.reasons else ""
    emit(
        as_json,
        {
            "target": os.fsdecode(made.target),
            "strategy": made.strategy.value,
            "reasons": list(made.reasons),
            "ids": [str(artifact.signature) for artifact in composition.artifacts],
        },
        [f"{text_of(made.target)}: {made.strategy.value}{why}"],
    )


@click.command("umount")
@click.argument("target", type=click.Path())
@store_option
@click.pass_context
def umount_command(ctx: click.Context, target: str) -> None:
    """Take away what `cas mount` made at TARGET.

    The directory goes too, if `cas mount` made it. What it did not make is never deleted.

    \b
    cas umount build/recipe-sysroot
    """
    umount(store_path(ctx), target)
