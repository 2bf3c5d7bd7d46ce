"""`cas mount`: mounts a sysroot."""

from __future__ import annotations

from typing import Unpack

import click

from cas.disk.mount_records import read_record
from cli.options.common import open_pulled, remote_option, standard_options
from cli.options.compose import (
    Overlaps,
    compose,
    conflict_options,
    ids_options,
    mounting_options,
    names_of,
)
from cli.output.interruption import summary_on_interrupt
from cli.output.mount_result import mount_document, mount_line
from cli.output.printing import acknowledge, text_of
from cli.output.progress import progress
from mounter.mounting import mount
from mounter.plan import Strategy
from mounter.targets import absolute_target


@click.command("mount")
@click.argument("target", type=click.Path())
@ids_options
@conflict_options
@mounting_options
@remote_option
@standard_options
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
    acknowledge(as_json, mount_document(made, composition), [mount_line(made)])
