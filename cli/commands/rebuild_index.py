"""`cas rebuild-index`: rebuilds a lost or damaged index."""

from __future__ import annotations

import contextlib
import os

import click

from cas.verify.rebuild_index import rebuild_index
from cli.options.common import resolve_store_path, standard_options
from cli.output.interruption import summary_on_interrupt
from cli.output.printing import acknowledge
from cli.output.progress import progress
from cli.output.quantities import number_of


@click.command("rebuild-index")
@standard_options
def rebuild_index_command(ctx: click.Context, as_json: bool) -> None:
    """Rebuild a lost or broken index.

    Restores all pins, and every artifact whose link, manifest and layer exist. The old index is
    moved to quarantine/ in the store. Run it only while no other command uses the store.

    \b
    cas rebuild-index
    """
    path = resolve_store_path(ctx)
    before = _index_of(path)

    def state() -> str:
        return "the index was not changed" if _index_of(path) == before else "the index was rebuilt"

    with summary_on_interrupt(state), progress("Reading", "artifacts") as show:
        rebuilt = rebuild_index(path, show)
    count = number_of(len(rebuilt.artifacts), "artifact")
    acknowledge(
        as_json,
        {
            "artifacts": [str(artifact.signature) for artifact in rebuilt.artifacts],
            "lost": list(rebuilt.lost),
            "lost_ids": [text.partition(": ")[0] for text in rebuilt.lost],
        },
        [
            *(f"lost {text}" for text in rebuilt.lost),
            f"{count} restored, {len(rebuilt.lost)} lost",
        ],
    )


def _index_of(store: str) -> int | None:
    """Return the inode number of a store's index, None if it does not exist."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return os.stat(os.path.join(store, "index/data.mdb")).st_ino
    return None
