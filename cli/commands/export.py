"""`cas export`: writes a tree to a directory or an archive."""

from __future__ import annotations

import os

import click

from cas.exchange.export import AlreadyExists, export
from cli.options.common import complete_id, open_store, standard_options
from cli.output.interruption import summary_on_interrupt
from cli.output.printing import acknowledge, text_of
from cli.output.progress import progress

_PATH = click.Path(path_type=bytes)


@click.command("export")
@click.argument("name", metavar="ID", shell_complete=complete_id)
@click.argument("target", metavar="DIR|FILE", type=_PATH)
@standard_options
def export_command(ctx: click.Context, name: str, target: bytes, as_json: bool) -> None:
    """Write an artifact to a new directory or archive.

    The name of an archive ends in .tar, .tar.gz, .tgz or .tar.zst. With the name of an sstate
    object of a sysroot, the archive becomes such an object. Files in a directory are copies that
    may be changed. `cas put` of either stores the same tree again, and so does `cas import` of an
    sstate object.

    \b
    cas export zlib:9f2c zlib-sysroot
    cas export zlib:9f2c zlib.tar.zst
    """
    store = open_store(ctx)
    if os.path.lexists(target):
        raise AlreadyExists(target)

    def state() -> str:
        done = os.path.lexists(target)
        return f"{text_of(target)} is complete" if done else "nothing was written"

    with summary_on_interrupt(state), progress("Exporting", "entries") as show:
        artifact = export(store, name, target, show)
    document = {"id": str(artifact.signature), "tree": artifact.tree, "path": os.fsdecode(target)}
    acknowledge(as_json, document, [f"{artifact.signature}: exported to {text_of(target)}"])
