"""`cas init`: creates a store, and shares it with a group."""

from __future__ import annotations

import grp
import os

import click

from cas.disk.group_sharing import is_shared
from cas.index.format import restore_store
from cas.store import Store
from cli.options.common import resolve_store_path, standard_options
from cli.output.interruption import RESUMABLE, summary_on_interrupt
from cli.output.printing import acknowledge, text_of
from cli.output.progress import progress


@click.command("init")
@click.option("--shared", is_flag=True, help="Let a group of users write to the store.")
@click.option(
    "--group", metavar="GROUP", help="The group of --shared; by default, that of the directory."
)
@standard_options
def init_command(ctx: click.Context, shared: bool, group: str | None, as_json: bool) -> None:
    """Create an empty store. The first `cas put` also creates a missing store.

    With --shared, all members of the group can write to the store, like a repository of `git init
    --shared`; other users can only read it. Also works on an existing store: it makes it shared,
    and restores missing directories.

    \b
    cas init --store /srv/sysroots --shared --group builders
    """
    if group is not None and not shared:
        raise click.UsageError("--group needs --shared", ctx)
    path = resolve_store_path(ctx)
    gid = None if group is None else _group_id(ctx, group)
    made = not os.path.exists(os.path.join(path, "format"))
    if not made:
        restore_store(os.path.realpath(os.fsencode(path)))
    with Store(path, create=True) as store:
        if shared:
            _share(store, os.fstat(store.fd).st_gid if gid is None else gid)
        sharing = _group_name(os.fstat(store.fd).st_gid) if is_shared(store.fd) else None
        where = store.path
    lines = [f"{'made the' if made else 'there is a'} store {text_of(where)}"]
    lines += [f"shared by the group {sharing}"] if sharing else []
    acknowledge(as_json, {"store": os.fsdecode(where), "made": made, "group": sharing}, lines)


def _share(store: Store, group: int) -> None:
    summary = f"some files are not shared yet; {RESUMABLE}"
    with summary_on_interrupt(lambda: summary), progress("Sharing", "files") as show:
        store.share(group, show)


def _group_id(ctx: click.Context, group: str) -> int:
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise click.UsageError(f"there is no group {group!r}", ctx) from error


def _group_name(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)
