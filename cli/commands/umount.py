"""`cas umount`: removes a mounted sysroot."""

from __future__ import annotations

import os

import click

from cas.disk.mount_records import read_record
from cli.options.common import open_store, resolve_store_path, standard_options
from cli.output.interruption import RESUMABLE, summary_on_interrupt
from cli.output.printing import acknowledge, text_of
from cli.output.progress import progress
from mounter.listing import umount_stale
from mounter.targets import resolve_target
from mounter.unmounting import umount


@click.command("umount")
@click.argument("target", type=click.Path(), required=False)
@click.option("--all-stale", is_flag=True, help="Forget all mounts that no longer exist.")
@click.option(
    "--forget", is_flag=True, help="Forget a mount of another mount namespace that has ended."
)
@standard_options
def umount_command(
    ctx: click.Context, target: str | None, all_stale: bool, forget: bool, as_json: bool
) -> None:
    """Remove the sysroot that `cas mount` made at TARGET.

    The directory is removed too, if `cas mount` created it. Other files are never deleted. A mount
    in another mount namespace cannot be inspected from here; it ends with the last process there.

    \b
    cas umount build/recipe-sysroot
    cas umount --all-stale
    """
    if (target is None) != all_stale or (forget and all_stale):
        raise click.UsageError("give a TARGET, or --all-stale", ctx)
    if target is not None:
        _umount(resolve_store_path(ctx), target, forget=forget, as_json=as_json)
        return
    store = open_store(ctx)
    forgotten: list[str] = []
    try:
        for cleared in umount_stale(store.path):
            forgotten.append(os.fsdecode(cleared))
    finally:  # also after an error
        acknowledge(
            as_json,
            {"unmounted": [], "forgotten": forgotten},
            [f"forgot {text_of(path)}" for path in forgotten],
        )


def _umount(store: str, target: str, *, forget: bool, as_json: bool) -> None:
    path = resolve_target(target)

    def state() -> str:
        if read_record(os.path.realpath(os.fsencode(store)), path) is None:
            return f"{text_of(path)} was unmounted"
        return f"{text_of(path)} was not completely removed; {RESUMABLE}"

    with summary_on_interrupt(state), progress("Removing", "entries") as show:
        umount(store, target, forget=forget, progress=show)
    acknowledge(as_json, {"unmounted": [os.fsdecode(path)], "forgotten": []}, [])
