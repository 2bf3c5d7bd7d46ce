"""`cas mount`, `cas umount`, `cas mounts` and `cas update`."""

from __future__ import annotations

import os
from typing import Unpack

import click

from cas.compose.composition import Composition
from cas.disk.mount_records import read_record
from cas.system.mountinfo import source_of
from cli.options.common import (
    complete_id,
    json_option,
    open_pulled,
    open_store,
    remote_option,
    resolve_store_path,
    store_option,
)
from cli.options.compose import (
    Overlaps,
    compose,
    conflict_documents,
    conflict_options,
    ids_options,
    mounting_options,
    names_of,
)
from cli.output.interruption import RESUMABLE, summary_on_interrupt
from cli.output.printing import acknowledge, emit, text_of
from cli.output.progress import progress
from mounter.mounting import Mount, mount
from mounter.plan import Strategy
from mounter.targets import absolute_target, resolve_target
from mounter.unmounting import umount


@click.command("mount")
@click.argument("target", type=click.Path())
@ids_options
@conflict_options
@mounting_options
@remote_option
@json_option
@store_option
@click.pass_context
def mount_command(
    ctx: click.Context,
    target: str,
    ids: tuple[str, ...],
    from_file: str | None,
    rw: bool,
    upper: str | None,
    strategy: str,
    remote: str | None,
    as_json: bool,
    **overlaps: Unpack[Overlaps],
) -> None:
    """Mount a sysroot at TARGET, read-only.

    A later ID wins over an earlier one, and ID@N over those of a lower N (0 if it is not given);
    IDs of --from come before those of the command line. TARGET must be empty; it is created if it
    is missing. Prints the strategy, and why better ones failed.

    \b
    cas mount build/recipe-sysroot glibc zlib openssl
    cas mount build/recipe-sysroot --from deps.txt
    cas mount build/recipe-sysroot --upper build/changes glibc zlib@5
    """
    names = names_of(ctx, ids, from_file)
    store = open_pulled(ctx, remote, names)
    path = absolute_target(target)
    before = read_record(store.path, path)

    def state() -> str:
        same = read_record(store.path, path) == before
        return "nothing was mounted" if same else f"{text_of(target)} is mounted"

    with (
        summary_on_interrupt(state),
        compose(store, names, f"mount at {target}", overlaps) as composition,
        progress("Making the tree", "files") as show,
    ):
        made = mount(
            composition, target, Strategy(strategy), writable=rw, upper=upper, progress=show
        )
    acknowledge(as_json, _document(made, composition), [_line(made)])


@click.command("umount")
@click.argument("target", type=click.Path(), required=False)
@click.option("--all-stale", is_flag=True, help="Forget all mounts that no longer exist.")
@click.option(
    "--forget", is_flag=True, help="Forget a mount of another mount namespace that has ended."
)
@json_option
@store_option
@click.pass_context
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
    from mounter.listing import umount_stale

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


@click.command("mounts")
@json_option
@store_option
@click.pass_context
def mounts_command(ctx: click.Context, as_json: bool) -> None:
    """List mounted sysroots, and their users.

    STATE is alive, stale (after a reboot, or unmounted by hand), elsewhere (in
    another mount namespace, covered by another mount, or moved), or running (in a command's own
    namespace).

    \b
    cas mounts
    """
    from cli.output.printing import table
    from cli.output.quantities import ago_text
    from mounter.listing import all_mounts

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


@click.command("update")
@click.argument("target", type=click.Path())
@click.argument("ids", metavar="[ID...]", nargs=-1, shell_complete=complete_id)
@click.option("--add", multiple=True, metavar="ID", help="Add ID on top of the mounted artifacts.")
@click.option("--drop", multiple=True, metavar="ID", help="Remove ID from the mounted artifacts.")
@conflict_options
@json_option
@store_option
@click.pass_context
def update_command(
    ctx: click.Context,
    target: str,
    ids: tuple[str, ...],
    add: tuple[str, ...],
    drop: tuple[str, ...],
    as_json: bool,
    **overlaps: Unpack[Overlaps],
) -> None:
    """Replace the sysroot at TARGET in one step.

    A process that opens a file meanwhile sees either the old sysroot or the new one; open files do
    not change. Conflicts are handled by the options given here, not those of `cas mount`. If the
    kernel cannot replace a mount in one step, TARGET is empty for a moment; the time is printed.

    \b
    cas update build/recipe-sysroot glibc zlib openssl
    cas update build/recipe-sysroot --add openssl --drop zlib
    """
    from mounter.updating import mounted_ids, remove_ids, update

    if not ids and not add and not drop:
        raise click.UsageError("give IDs, --add or --drop", ctx)
    if ids and drop:
        raise click.UsageError("give IDs or --drop, not both", ctx)
    store = open_store(ctx)
    mounted = mounted_ids(store.path, target)
    source = source_of(resolve_target(target))  # None for a linked tree
    names = [*(ids or remove_ids(remove_ids(mounted, drop), add, missing_ok=True)), *add]

    def state() -> str:
        path = resolve_target(target)
        same = (source_of(path) or mounted_ids(store.path, target)) == (source or mounted)
        return f"{text_of(target)} has the {'old' if same else 'new'} composition"

    with (
        summary_on_interrupt(state),
        compose(store, names, f"update of {target}", overlaps) as composition,
        progress("Updating", "entries") as show,
    ):
        done = update(composition, target, show)
    gap = f"; it was empty for {done.gap_ns / 1e6:.3f} ms ({done.why})" if done.why else ""
    acknowledge(
        as_json,
        _document(done.mount, composition) | {"gap_ns": done.gap_ns, "why_gap": done.why},
        [_line(done.mount) + gap],
    )


def _document(made: Mount, composition: Composition) -> dict[str, object]:
    return {
        "target": os.fsdecode(made.target),
        "strategy": made.strategy.value,
        "reasons": list(made.reasons),
        "ids": list(composition.ids),
        "conflicts": conflict_documents(composition.conflicts),
    }


def _line(made: Mount) -> str:
    why = f" ({'; '.join(made.reasons)})" if made.reasons else ""
    return f"{text_of(made.target)}: {made.strategy.value}{why}"
