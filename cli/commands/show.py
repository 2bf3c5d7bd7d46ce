"""`cas show`: prints the record of an artifact."""

from __future__ import annotations

import os

import click

from cli.options.common import complete_id, open_store, standard_options
from cli.output.documents import artifact_document
from cli.output.printing import emit, text_of, time_of
from cli.output.quantities import ago_text, size_text


@click.command("show")
@click.argument("id_", metavar="ID", shell_complete=complete_id)
@standard_options
def show_command(ctx: click.Context, id_: str, as_json: bool) -> None:
    """Print the record of one artifact.

    It includes the path of the artifact's tree.

    \b
    cas show zlib
    """
    store = open_store(ctx)
    artifact = store.resolve(id_)
    document = artifact_document(artifact)
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
