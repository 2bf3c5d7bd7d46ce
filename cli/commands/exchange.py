"""`cas import` and `cas export`: exchange of trees with other tools."""

from __future__ import annotations

import os

import click

from cas.errors import ExitCode
from cas.exchange.export import AlreadyExists, export
from cas.exchange.import_sstate import Imported, import_sstate
from cas.exchange.sstate import objects_in
from cli.options.common import complete_id, json_option, open_store, store_option
from cli.output.batch import collecting
from cli.output.errors import report
from cli.output.interruption import summary_on_interrupt
from cli.output.printing import acknowledge, text_of
from cli.output.progress import progress

_PATH = click.Path(path_type=bytes)


@click.group("import")
def import_command() -> None:
    """Store artifacts of other caches.

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
    releases), or a directory with such objects. The ID is taken from the name. Stored artifacts
    are not read again. The list of files to relocate, if there is one, becomes
    sysroot-fixmepath/RECIPE in the tree.

    \b
    cas import sstate build/sstate-cache
    """
    store = open_store(ctx, create=True)
    objects = list(objects_in(paths))
    done: list[Imported] = []
    with collecting("Importing", "objects", len(objects), done) as (on_result, on_bytes):
        import_sstate(store, objects, on_result, on_bytes)
    done.sort(key=lambda imported: imported.path)
    known = sum(imported.known for imported in done)
    refused = [imported.refused for imported in done if imported.refused]
    stored = [imported for imported in done if not imported.known and not imported.refused]
    counts = f"{len(stored)} stored, {known} already stored, {len(refused)} refused"
    acknowledge(
        as_json,
        {"objects": list(map(_document, done))},
        [*(f"{imported.signature}: stored" for imported in stored), counts],
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
    """Write the tree of an artifact to a new directory or archive.

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
