"""`cas report`: writes an HTML overview of the store."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import sys
import time

import click

from cas.disk.counters import DAY_NS
from cas.disk.log import EventKind
from cas.errors import InputRefused
from cas.model.artifact import Artifact
from cas.store import Store
from cas.system.oserrors import adding_path
from cas.system.paths import is_within, temporary_name
from cas.system.signals import signals_blocked
from cas.system.text import quoted
from cas.usage.statistics import Statistics
from cli.commands.gc import usual_policy
from cli.commands.stats import BY
from cli.options.common import open_store, standard_options
from cli.output.printing import STANDARD_OUTPUT, acknowledge, text_of
from cli.output.progress import progress
from cli.report_page.data import EVENTS, Report, age_of
from cli.report_page.page import page


@click.command("report")
@click.argument("path", metavar="FILE.html", type=click.Path(path_type=bytes))
@click.option(
    "--by",
    type=click.Choice(list(BY)),
    default="recipe",
    show_default=True,
    help="Show the disk space of each.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 400),
    default=30,
    show_default=True,
    metavar="N",
    help="Show the last N days (UTC).",
)
@standard_options
def report_command(ctx: click.Context, path: bytes, by: str, days: int, as_json: bool) -> None:
    """Write an HTML overview of the store.

    It shows disk space, sharing, last use, the hit rate, growth, and damage. The page is a single
    file that needs no network. An existing FILE is replaced; - is standard output.

    \b
    cas report store.html
    cas report --by task --days 90 store.html
    """
    if path == b"-" and as_json:
        raise click.UsageError(
            "--json needs a FILE, since both would be written to standard output", ctx
        )
    store = open_store(ctx)
    if path != b"-":
        path = _output_path(path, store)
    data = page(_report(ctx, store, by, days)).encode()
    if path == b"-":
        with adding_path(STANDARD_OUTPUT):
            if sys.stdout is not None:  # None if the caller has closed it
                sys.stdout.buffer.write(data)
        return
    _replace(path, data)
    document = {"path": os.fsdecode(path), "bytes": len(data)}
    acknowledge(as_json, document, [f"written to {text_of(path)}"])


def _report(ctx: click.Context, store: Store, by: str, days: int) -> Report:
    now = time.time_ns()
    policy = usual_policy(ctx)
    plan = store.plan_gc(policy)
    doomed = {candidate.artifact.signature for candidate in plan.doomed}
    pinned = {pin.signature for pin in store.pins()}
    statistics = _since_creation(store, store.statistics(days))

    def age_and_fate(artifact: Artifact) -> str:
        signature = artifact.signature
        fate = "pinned" if signature in pinned else "removed" if signature in doomed else "kept"
        return f"{age_of(store.last_used_ns(artifact), now)} {fate}"

    with progress("Measuring", "artifacts") as show:
        groups = store.groups(BY[by], show)
    with progress("Measuring again, by age", "artifacts") as show:
        ages = store.groups(age_and_fate, show)
    events = (event for event in store.log() if event.kind != EventKind.PUT.value)
    return Report(
        store.path,
        now,
        by,
        statistics,
        groups,
        ages,
        len(doomed),
        plan.frees,
        not policy.keeps_all,
        tuple(itertools.islice(events, EVENTS)),
    )


def _since_creation(store: Store, statistics: Statistics) -> Statistics:
    """Return statistics without the days before the store was created."""
    created = os.stat(os.path.join(store.path, b"format")).st_mtime_ns // DAY_NS
    days = tuple(day for day in statistics.days if day.day >= created)
    return statistics._replace(days=days or statistics.days[-1:])


def _output_path(path: bytes, store: Store) -> bytes:
    """Return the real path of the page to write. Raises InputRefused, OSError."""
    path = os.path.realpath(path)
    if is_within(path, store.path):
        hint = "choose a path outside of the store"
        raise InputRefused(f"{quoted(path)} is in the store", hint=hint)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            hint = "choose another path, or - for standard output"
            raise InputRefused(f"{quoted(path)} is not a regular file", hint=hint)
    return path


def _replace(path: bytes, data: bytes) -> None:
    """Replace a file atomically. Raises OSError."""
    directory, name = os.path.split(path)
    unfinished = os.path.join(directory, temporary_name(name))
    try:
        with open(unfinished, "xb") as file:
            file.write(data)
        os.rename(unfinished, path)
    except OSError as error:
        error.filename = os.fsdecode(path)
        raise
    finally:
        with signals_blocked(), contextlib.suppress(OSError):
            os.unlink(unfinished)
