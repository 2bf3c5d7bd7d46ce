"""`cas import sstate`: stores the sysroots of an sstate cache."""

from __future__ import annotations

import os

import click

from cas.errors import ExitCode
from cas.exchange.import_sstate import Imported, import_sstate
from cas.exchange.sstate import objects_in
from cli.options.common import open_store, standard_options
from cli.output.batch import collecting
from cli.output.errors import report
from cli.output.printing import acknowledge

_PATH = click.Path(path_type=bytes)


@click.group("import")
def import_command() -> None:
    """Store artifacts of other caches.

    \b
    cas import sstate build/sstate-cache
    """


@import_command.command("sstate")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=_PATH)
@standard_options
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
