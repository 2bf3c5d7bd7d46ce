"""`cas ls`: lists artifacts."""

from __future__ import annotations

import fnmatch

import click

from cas.index.format import NoStore
from cli.options.common import open_store, standard_options
from cli.output.documents import artifact_document
from cli.output.printing import emit, note, table
from cli.output.quantities import ago_text, size_text


@click.command("ls")
@click.argument("pattern", default="*")
@standard_options
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
    artifacts = [
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
        for artifact in artifacts
    ]
    emit(
        as_json,
        [artifact_document(artifact) for artifact in artifacts],
        table(("ID", "TREE", "FILES", "SIZE", "STORED"), rows),
    )
