"""`cas import` and `cas export`: trees come from elsewhere, and go there."""

from __future__ import annotations

import os

import click

from cas.errors import ExitCode
from cas.exchange.export import AlreadyExists, export
from cas.exchange.import_sstate import Imported, import_sstate
from cas.exchange.sstate import objects_in
from cli.options.common import complete_id, json_option, open_store, store_option
from cli.output.batch import gathering
from cli.output.errors import report
from cli.output.interruption import summary_on_interrupt
from cli.output.printing import acknowledge, text_of
from cli.output.progress import progress

_PATH = click.Path(path_type=bytes)


@click.group("import")
def import_command() -> None:
    """Store what other caches hold.

    \b
    cas import sstate build/sstate-cache
    """


@import_command.command("sstate")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=_PATH)
@json_option
@store_option
@click.pass_context
def import_sstate_command(ctx: click.Context, paths: tuple[bytes, ...], as_json: bool) -> None:
    """Store the sysroots in sstate objects of Yocto's BitBake.

    PATH is an object of a do_populate_sysroot task (…_populate_sysroot.tar.zst, or .tgz of old
    releases), or a directory with any number of them. Its name tells the ID. What is stored
    already is not read again. The list of files that have to be relocated, if there is one, is
    sysroot-fixmepath/RECIPE in the tree.

    \b
    cas import sstate build/sstate-cache
    """
    store = open_store(ctx, create=True)
    found = list(objects_in(paths))
    done: list[Imported] = []
    with gathering("Importing", "objects", len(found), done) as (take, moved):
        import_sstate(store, found, take, moved)
    done.sort(key=lambda imported: imported.path)
    known = sum(imported.known for imported in done)
    refused = [imported.refused for imported in done if imported.refused]
    stored = [one for one in done if not one.known and not one.refused]
    counts = f"{len(stored)} stored, {known} known already, {len(refused)} refused"
    acknowledge(
        as_json,
        {"objects": [_document(one) for one in done]},
        [*(f"{one.signature}: stored" for one in stored), counts],
    )
    for error in refused:
        report(error)
    ctx.exit(ExitCode.REFUSED if refused else ExitCode.DONE)


@click.command("export")
@click.argument("name", metavar="ID", shell_complete=complete_id)
@click.argument("target", metavar="DIR|FILE", type=_PATH)
@json_option
@store_option
@click.pass_context
def export_command(ctx: click.Context, name: str, target: bytes, as_json: bool) -> None:
    """Write what ID is to a new directory, or to an archive.

    An archive's name ends in .tar, .tar.gz, .tgz or .tar.zst. One with the name of an sstate object
    of a sysroot is one. Files in the directory are copies, which may be changed. `cas put` of
    either gives the same tree again, and so does `cas import` of an sstate object.

    \b
    cas export zlib:9f2c zlib-sysroot
    cas export zlib:9f2c zlib.tar.zst
    """
    store = open_store(ctx)
    if os.path.lexists(target):
        raise AlreadyExists(target)

    def told() -> str:
        return f"{text_of(target)} is whole" if os.path.lexists(target) else "nothing was written"

    with summary_on_interrupt(told), progress("Exporting", "entries") as show:
        artifact = export(store, name, target, show)
    document = {"id": str(artifact.signature), "tree": artifact.tree, "path": os.fsdecode(target)}
    acknowledge(as_json, document, [f"{artifact.signature}: exported to {text_of(target)}"])


def _document(imported: Imported) -> dict[str, object]:
    artifact = imported.artifact
    status = "refused" if artifact is None else "known" if imported.known else "stored"
    return {
        "path": os.fsdecode(imported.path),
        "id": None if imported.signature is None else str(imported.signature),
        "status": status,
        "tree": None if artifact is None else artifact.tree,
        "new_bytes": imported.new_bytes,
        "reason": None if imported.refused is None else imported.refused.message,
    }
