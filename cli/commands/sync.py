"""`cas sync`: makes artifacts survive a power failure."""

from __future__ import annotations

import click

from cli.options.common import open_store, standard_options
from cli.output.interruption import summary_on_interrupt
from cli.output.printing import acknowledge
from cli.output.progress import progress
from cli.output.quantities import number_of


@click.command("sync")
@standard_options
def sync_command(ctx: click.Context, as_json: bool) -> None:
    """Write everything to the disk.

    Afterwards, all artifacts survive a power failure, and need no check after it. Without it, a
    power failure may damage artifacts that were stored shortly before; they then count as missing.

    \b
    cas sync
    """
    store = open_store(ctx)
    with (
        summary_on_interrupt(lambda: "some artifacts are not safe yet"),
        progress("Writing to the disk") as show,
    ):
        count = store.sync(show)
    acknowledge(
        as_json, {"artifacts": count}, [f"{number_of(count, 'artifact')} written to the disk"]
    )
