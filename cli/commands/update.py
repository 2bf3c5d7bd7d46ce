"""`cas update`: replaces a mounted sysroot."""

from __future__ import annotations

from typing import Unpack

import click

from cas.system.mountinfo import source_of
from cli.options.common import complete_id, open_store, standard_options
from cli.options.compose import Overlaps, compose, conflict_options
from cli.output.interruption import summary_on_interrupt
from cli.output.mount_result import mount_document, mount_line
from cli.output.printing import acknowledge, text_of
from cli.output.progress import progress
from mounter.targets import resolve_target
from mounter.updating import mounted_ids, remove_ids, update


@click.command("update")
@click.argument("target", type=click.Path())
@click.argument("ids", metavar="[ID...]", nargs=-1, shell_complete=complete_id)
@click.option("--add", multiple=True, metavar="ID", help="Add ID on top of the mounted artifacts.")
@click.option("--drop", multiple=True, metavar="ID", help="Remove ID from the mounted artifacts.")
@conflict_options
@standard_options
def update_command(
    ctx: click.Context,
    target: str,
    ids: tuple[str, ...],
    add: tuple[str, ...],
    drop: tuple[str, ...],
    as_json: bool,
    **overlaps: Unpack[Overlaps],
) -> None:
    """Replace the sysroot at TARGET in one step.

    A process that opens a file meanwhile sees either the old sysroot or the new one; open files do
    not change. Conflicts are handled by the options given here, not those of `cas mount`. If the
    kernel cannot replace a mount in one step, TARGET is empty for a moment; the time is printed.

    \b
    cas update build/recipe-sysroot glibc zlib openssl
    cas update build/recipe-sysroot --add openssl --drop zlib
    """
    if not ids and not add and not drop:
        raise click.UsageError("give IDs, --add or --drop", ctx)
    if ids and drop:
        raise click.UsageError("give IDs or --drop, not both", ctx)
    store = open_store(ctx)
    mounted = mounted_ids(store.path, target)
    source = source_of(resolve_target(target))  # None for a linked tree
    names = [*(ids or remove_ids(remove_ids(mounted, drop), add, missing_ok=True)), *add]

    def state() -> str:
        path = resolve_target(target)
        same = (source_of(path) or mounted_ids(store.path, target)) == (source or mounted)
        return f"{text_of(target)} has the {'old' if same else 'new'} composition"

    with (
        summary_on_interrupt(state),
        compose(store, names, f"update of {target}", overlaps) as composition,
        progress("Updating", "entries") as show,
    ):
        done = update(composition, target, show)
    gap = f"; it was empty for {done.gap_ns / 1e6:.3f} ms ({done.why})" if done.why else ""
    acknowledge(
        as_json,
        mount_document(done.mount, composition) | {"gap_ns": done.gap_ns, "why_gap": done.why},
        [mount_line(done.mount) + gap],
    )
