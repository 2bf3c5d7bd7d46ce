"""`cas du`: the disk space of artifacts."""

from __future__ import annotations

import click

from cli.options.common import open_store, standard_options
from cli.options.compose import ids_options, names_of
from cli.output.printing import emit, table
from cli.output.quantities import size_text


@click.command("du")
@ids_options
@standard_options
def du_command(
    ctx: click.Context, ids: tuple[str, ...], from_file: str | None, as_json: bool
) -> None:
    """Show the disk space that artifacts use.

    SIZE is the total of an artifact. Removing it frees OWN; other artifacts also use SHARED. The
    last line shows the space of all of them together, and how much removing all of them frees.

    \b
    cas du zlib openssl
    cas du --from deps.txt
    """
    combined = open_store(ctx).disk_usage(names_of(ctx, ids, from_file))
    each = [
        (str(usage.artifact.signature), usage.total, usage.own, usage.total - usage.own)
        for usage in combined.each
    ]
    names = ("id", "disk_bytes", "own_bytes", "shared_bytes")
    document = {
        "artifacts": [dict(zip(names, values, strict=True)) for values in each],
        "disk_bytes": combined.total,
        "frees_bytes": combined.frees,
    }
    rows = [(id_, *map(size_text, sizes)) for id_, *sizes in each]
    last = (
        f"{size_text(combined.total)} in all; {size_text(combined.frees)} freed if all are removed"
    )
    emit(as_json, document, [*table(("ID", "SIZE", "OWN", "SHARED"), rows), last])
