"""`cas rm`: removes artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cas.system.progress import NO_PROGRESS, Progress
from cli.options.common import complete_id, open_store, standard_options
from cli.output.interruption import summary_on_interrupt
from cli.output.printing import acknowledge
from cli.output.progress import progress
from cli.output.quantities import size_text

if TYPE_CHECKING:
    pass


_REMOVED = "all named artifacts were removed; `cas gc` frees the rest of their space"


class _RemovalProgress(Progress):
    """Remembers whether the records are deleted, and passes all other reports on to `shown`."""

    def __init__(self) -> None:
        self.shown = NO_PROGRESS
        self.is_committed = False

    def update(self, done: int, total: int = 0, size: int = 0) -> None:
        """Pass the report on."""
        self.shown.update(done, total, size)

    def committed(self) -> None:
        """Remember that the records are deleted."""
        self.is_committed = True


@click.command("rm")
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id)
@click.option("--force", is_flag=True, help="Also remove artifacts in use or pinned.")
@standard_options
def rm_command(ctx: click.Context, ids: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Remove artifacts.

    Frees the space that nothing else uses. Artifacts in use or pinned are only removed with
    --force; mounted sysroots stay readable even then.

    \b
    cas rm zlib:9f2c
    """
    store = open_store(ctx)
    removal = _RemovalProgress()

    def summary() -> str:
        return _REMOVED if removal.is_committed else "nothing was removed"

    with summary_on_interrupt(summary), progress("Removing") as shown:
        removal.shown = shown
        removed = store.remove(ids, force=force, progress=removal)
    names = [str(artifact.signature) for artifact in removed.artifacts]
    acknowledge(
        as_json,
        {"removed": names, "freed_bytes": removed.freed},
        [*(f"removed {name}" for name in names), f"{size_text(removed.freed)} freed"],
    )
