"""`cas unpin`: removes the pin of an artifact."""

from __future__ import annotations

import click

from cli.options.common import complete_id, open_store, standard_options
from cli.output.printing import acknowledge


@click.command("unpin")
@click.argument("id_", metavar="ID", shell_complete=complete_id)
@standard_options
def unpin_command(ctx: click.Context, id_: str, as_json: bool) -> None:
    """Remove the pin of an artifact.

    \b
    cas unpin zlib
    """
    signature = open_store(ctx).unpin(id_)
    acknowledge(as_json, {"id": str(signature)}, [f"unpinned {signature}"])
