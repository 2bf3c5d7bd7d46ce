"""`cas has`: checks whether artifacts are in the store."""

from __future__ import annotations

import click

from cas.index.format import NoStore
from cas.model.signature import Signature
from cli.options.common import complete_id, open_pulled, remote_option, standard_options
from cli.output.printing import emit


@click.command("has")
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id)
@remote_option
@standard_options
def has_command(
    ctx: click.Context, ids: tuple[str, ...], remote: str | None, as_json: bool
) -> None:
    """Check whether all IDs are in the store.

    Prints the missing IDs, and exits with 3 if there are any, else with 0. IDs must be complete, so
    that a build never skips work because of an abbreviation.

    \b
    cas has zlib:core2-64:do_populate_sysroot:9f2c41d0
    """
    signatures = [Signature.parse(text) for text in ids]
    try:
        store = open_pulled(ctx, remote, ids)
        missing = list(map(str, store.missing(signatures)))
    except NoStore:
        missing = list(ids)
    emit(as_json, {"missing": missing}, missing)
    if missing:
        ctx.exit(3)
