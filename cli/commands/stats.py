"""`cas stats`: the contents of the store, its savings, and its use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click

from cas.disk.counters import Counts
from cas.model.artifact import Artifact
from cas.store import Store
from cas.usage.statistics import Day, Group, Statistics
from cli.commands.gc import usual_policy
from cli.options.common import open_store, standard_options
from cli.output.printing import emit, table
from cli.output.progress import progress
from cli.output.quantities import date_text, number_of, signed_text, size_text

BY: dict[str, Callable[[Artifact], str]] = {
    "recipe": lambda artifact: artifact.signature.recipe,
    "arch": lambda artifact: artifact.signature.arch or "-",
    "task": lambda artifact: artifact.signature.task,
}
"""The choices of --by: functions that return the group of an artifact."""


@click.command("stats")
@click.option("--by", type=click.Choice(list(BY)), help="Show the disk space of each.")
@click.option(
    "--days",
    type=click.IntRange(1, 400),
    default=7,
    show_default=True,
    metavar="N",
    help="Show each of the last N days (UTC).",
)
@standard_options
def stats_command(ctx: click.Context, by: str | None, days: int, as_json: bool) -> None:
    """Show the contents of the store, its savings, and its use.

    A hit is an artifact that was in the store when `cas has` or a sysroot needed it. For each day,
    GREW is the space that puts used, less the space freed; HAD and MISSED are hits and misses of
    `cas has`, USED and LACKED those of sysroots; MOUNTS counts sysroots made by overlay, and
    DAMAGED new findings of damage. With --by, DISK is the disk space of a line's artifacts, OWN the
    part that no other line uses, and SHARE is OWN plus an equal part of the shared space.

    \b
    cas stats
    cas stats --by recipe --days 30
    """
    store = open_store(ctx)
    statistics = store.statistics(days)
    frees = store.plan_gc(usual_policy(ctx)).frees
    groups = None if by is None else _groups(store, BY[by])
    lines = [*_summary(statistics, frees), "", *_days(statistics.days)]
    if by is not None and groups is not None:
        lines += ["", *_group_lines(by, groups)]
    emit(as_json, _document(statistics, frees, groups), lines)


def _groups(store: Store, name_of: Callable[[Artifact], str]) -> list[Group]:
    with progress("Measuring", "artifacts") as show:
        return store.groups(name_of, show)


def _summary(statistics: Statistics, frees: int) -> Iterator[str]:
    space, ever = statistics.space, statistics.ever
    files = number_of(statistics.files, "file")
    yield f"artifacts        {statistics.artifacts}, of {statistics.trees} different trees"
    yield f"size             {size_text(statistics.logical)} in {files}"
    yield f"on the disk      {size_text(space.disk)}, with {space.contents} contents of " + (
        size_text(space.content_bytes)
    )
    yield f"saved by sharing {size_text(statistics.saved)}"
    yield f"saved by mounts  {ever.entries} files, directories and links not created, of " + (
        number_of(ever.overlays, "sysroot")
    )
    yield f"cas has          {_rate(ever.has_hits, ever.has_misses)}"
    yield f"sysroots         {_rate(ever.mount_hits, ever.mount_misses)}"
    yield f"`cas gc` frees   {size_text(frees)}"


def _rate(hits: int, misses: int) -> str:
    share = f" ({100 * hits / (hits + misses):.0f} %)" if hits + misses else ""
    return f"hits {hits}{share}, misses {misses}"


def _days(days: tuple[Day, ...]) -> list[str]:
    rows = [
        (
            date_text(day.day),
            str(day.put),
            str(day.gone),
            signed_text(day.put_bytes - day.freed_bytes),
            str(day.counts.has_hits),
            str(day.counts.has_misses),
            str(day.counts.mount_hits),
            str(day.counts.mount_misses),
            str(day.counts.overlays),
            str(day.damaged),
        )
        for day in days
        if day != Day(day.day, Counts())
    ]
    header = ("DAY", "PUT", "GONE", "GREW")
    uses = ("HAD", "MISSED", "USED", "LACKED", "MOUNTS", "DAMAGED")
    return table((*header, *uses), rows)


def _group_lines(by: str, groups: list[Group]) -> list[str]:
    rows = [
        (
            group.name,
            str(group.artifacts),
            str(group.files),
            *map(size_text, (group.logical, group.disk, group.own, group.share)),
        )
        for group in groups
    ]
    return table((by.upper(), "ARTIFACTS", "FILES", "SIZE", "DISK", "OWN", "SHARE"), rows)


def _document(statistics: Statistics, frees: int, groups: list[Group] | None) -> dict[str, object]:
    space = statistics.space
    return {
        "artifacts": statistics.artifacts,
        "trees": statistics.trees,
        "files": statistics.files,
        "bytes": statistics.logical,
        "disk_bytes": space.disk,
        "contents": space.contents,
        "content_bytes": space.content_bytes,
        "saved_bytes": statistics.saved,
        "gc_frees_bytes": frees,
        "counts": _counts(statistics.ever),
        "days": [
            {
                "date": date_text(day.day),
                "put": day.put,
                "put_bytes": day.put_bytes,
                "gone": day.gone,
                "freed_bytes": day.freed_bytes,
                "damaged": day.damaged,
                "counts": _counts(day.counts),
            }
            for day in statistics.days
        ],
        "groups": None if groups is None else list(map(_group, groups)),
    }


def _counts(counts: Counts) -> dict[str, int]:
    return counts._asdict()


def _group(group: Group) -> dict[str, object]:
    return {
        "name": group.name,
        "artifacts": group.artifacts,
        "files": group.files,
        "bytes": group.logical,
        "disk_bytes": group.disk,
        "own_bytes": group.own,
        "share_bytes": group.share,
        "last_used_ns": group.last_used_ns,
    }
