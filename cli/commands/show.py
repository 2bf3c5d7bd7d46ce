"""`cas has`, `cas ls`, `cas show` and `cas files`: the artifacts of the store."""

from __future__ import annotations

import fnmatch
import os

import click

from cas.index.format import NoStore
from cas.model.artifact import Artifact
from cas.model.signature import Signature
from cli.options.common import (
    complete_id,
    json_option,
    open_pulled,
    open_store,
    remote_option,
    store_option,
)
from cli.output.entries import entry_document, entry_line
from cli.output.printing import emit, note, table, text_of, time_of
from cli.output.quantities import ago_text, size_text


@click.command("has")
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id)
@remote_option
@json_option
@store_option
@click.pass_context
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


@click.command("ls")
@click.argument("pattern", default="*")
@json_option
@store_option
@click.pass_context
def ls_command(ctx: click.Context, pattern: str, as_json: bool) -> None:
    """List artifacts.

    PATTERN selects them by recipe or complete ID, with shell wildcards.

    \b
    cas ls 'lib*'
    """
    try:
        everything = open_store(ctx).artifacts()
    except NoStore as error:
        note(error.message)
        everything = []
    found = [
        artifact
        for artifact in everything
        if fnmatch.fnmatchcase(artifact.signature.recipe, pattern)
        or fnmatch.fnmatchcase(str(artifact.signature), pattern)
    ]
    rows = [
        (
            str(artifact.signature),
            artifact.tree[:12],
            str(artifact.files),
            size_text(artifact.size),
            ago_text(artifact.created_ns),
        )
        for artifact in found
    ]
    emit(
        as_json,
        [_document(artifact) for artifact in found],
        table(("ID", "TREE", "FILES", "SIZE", "STORED"), rows),
    )


@click.command("show")
@click.argument("id_", metavar="ID", shell_complete=complete_id)
@json_option
@store_option
@click.pass_context
def show_command(ctx: click.Context, id_: str, as_json: bool) -> None:
    """Print the record of one artifact.

    It includes the path of the artifact's tree.

    \b
    cas show zlib
    """
    store = open_store(ctx)
    artifact = store.resolve(id_)
    document = _document(artifact)
    document["layer"] = os.fsdecode(store.layer_path(artifact))
    document["last_used_ns"] = store.last_used_ns(artifact)
    document["pinned"] = store.is_pinned(artifact.signature)
    lines = []
    for key, value in document.items():
        if key.endswith("_ns") and isinstance(value, int):
            name = key.removesuffix("_ns").replace("_", " ")
            lines.append(f"{name}: {time_of(value)} ({ago_text(value)})")
        elif key == "bytes":
            lines.append(f"size: {size_text(artifact.size)}")
        elif isinstance(value, dict):
            lines += [f"{key} {name}: {count}" for name, count in value.items() if count]
        elif isinstance(value, bool):
            lines.append(f"{key}: {'yes' if value else 'no'}")
        elif value is not None:
            lines.append(f"{key}: {text_of(value) if isinstance(value, str) else value}")
    emit(as_json, document, lines)


@click.command("files")
@click.argument("id_", metavar="ID", shell_complete=complete_id)
@json_option
@store_option
@click.pass_context
def files_command(ctx: click.Context, id_: str, as_json: bool) -> None:
    """List the files of an artifact.

    Prints one entry a line: kind, executable bit, size, digest, path, target.

    \b
    cas files zlib
    """
    store = open_store(ctx)
    entries = list(store.manifest(store.resolve(id_)))
    emit(as_json, [entry_document(entry) for entry in entries], map(entry_line, entries))


def _document(artifact: Artifact) -> dict[str, object]:
    signature = artifact.signature
    dropped = artifact.dropped
    return {
        "id": str(signature),
        "recipe": signature.recipe,
        "arch": signature.arch,
        "task": signature.task,
        "hash": signature.hash,
        "tree": artifact.tree,
        "files": artifact.files,
        "directories": artifact.directories,
        "symlinks": artifact.symlinks,
        "bytes": artifact.size,
        "stored_ns": artifact.created_ns,
        "dropped": {
            "set_id_bits": dropped.set_id_bits,
            "xattrs": dropped.xattrs,
            "owners": dropped.owners,
        },
    }
