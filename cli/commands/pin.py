"""`cas pin`: keeps an artifact until it is unpinned."""

from __future__ import annotations

import click

from cli.options.common import complete_id, open_store, standard_options
from cli.output.documents import pin_document
from cli.output.printing import acknowledge


@click.command("pin")
@click.argument("id_", metavar="ID", shell_complete=complete_id)
@click.option(
    "--reason", metavar="TEXT", default="", help="Record a reason, which `cas pins` shows."
)
@standard_options
def pin_command(ctx: click.Context, id_: str, reason: str, as_json: bool) -> None:
    """Keep an artifact until it is unpinned.

    \b
    cas pin zlib --reason "release 4.2"
    """
    pin = open_store(ctx).pin(id_, reason)
    acknowledge(as_json, pin_document(pin), [f"pinned {pin.signature}"])
