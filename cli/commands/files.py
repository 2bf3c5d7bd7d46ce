"""`cas files`: lists the files of an artifact."""

from __future__ import annotations

import click

from cli.options.common import complete_id, open_store, standard_options
from cli.output.entries import entry_document, entry_line
from cli.output.printing import emit


@click.command("files")
@click.argument("id_", metavar="ID", shell_complete=complete_id)
@standard_options
def files_command(ctx: click.Context, id_: str, as_json: bool) -> None:
    """List the files of an artifact.

    Prints one entry a line: kind, executable bit, size, digest, path, target.

    \b
    cas files zlib
    """
    store = open_store(ctx)
    entries = list(store.manifest(store.resolve(id_)))
    emit(as_json, [entry_document(entry) for entry in entries], map(entry_line, entries))
