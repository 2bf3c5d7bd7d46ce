"""`cas mounts`: lists the mounted sysroots."""

from __future__ import annotations

import os

import click

from cli.options.common import open_store, standard_options
from cli.output.printing import emit, table, text_of
from cli.output.quantities import ago_text
from mounter.listing import all_mounts


@click.command("mounts")
@standard_options
def mounts_command(ctx: click.Context, as_json: bool) -> None:
    """List mounted sysroots, and their users.

    STATE is alive, stale (after a reboot, or unmounted by hand), elsewhere (in another
    mount namespace, covered by another mount, or moved), or running (in the namespace of a
    command).

    \b
    cas mounts
    """
    mounts = list(all_mounts(open_store(ctx).path))
    rows = [
        (
            text_of(entry.where),
            entry.state,
            entry.strategy,
            str(len(entry.ids)),
            ago_text(entry.since_ns),
            f"{entry.user} ({entry.pid})",
        )
        for entry in mounts
    ]
    emit(
        as_json,
        [
            {
                "where": os.fsdecode(entry.where),
                "state": entry.state,
                "strategy": None if entry.state == "running" else entry.strategy,
                "ids": list(entry.ids),
                "since_ns": entry.since_ns,
                "user": entry.user,
                "pid": entry.pid,
            }
            for entry in mounts
        ],
        table(("WHERE", "STATE", "STRATEGY", "IDS", "SINCE", "BY"), rows),
    )
