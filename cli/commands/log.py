"""`cas log`: the history of the store."""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import time
from collections.abc import Sequence

import click

from cas.disk.log import Event, EventKind, read_log
from cas.index.format import find_store
from cas.system.text import name_of_user
from cli.options.common import complete_id, resolve_store_path, standard_options
from cli.output.printing import emit, note, table, text_of, time_of
from cli.output.quantities import age, size_text

_ID = re.compile(r"[^\s(),]+:[^\s(),]+")
_KINDS = click.Choice([kind.value for kind in EventKind])


@click.command("log")
@click.argument("pattern", required=False, shell_complete=complete_id)
@click.option("--event", "kinds", multiple=True, type=_KINDS, help="Show only these events.")
@click.option(
    "--since", type=age, metavar="AGE", help="Show only events of the last AGE, as in 7d."
)
@click.option(
    "-n",
    "--last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show only the last N events; 50 without this and --since.",
)
@standard_options
def log_command(
    ctx: click.Context,
    pattern: str | None,
    kinds: tuple[str, ...],
    since: int | None,
    last: int | None,
    as_json: bool,
) -> None:
    """Show the history of the store.

    It lists artifacts stored, removed or damaged, with time and user. The newest event is last.
    PATTERN selects artifacts by recipe or complete ID, with shell wildcards. Events are kept for
    thirteen months. Users without write access are not logged.

    \b
    cas log
    cas log zlib
    cas log --since 7d --event damaged --event repaired
    """
    if last is None and since is None:
        last = 50
    store = os.path.realpath(os.fsencode(resolve_store_path(ctx)))
    find_store(store, create=False)  # without the index, which may be damaged
    since_ns = 0 if since is None else max(0, time.time_ns() - since)
    wanted = (
        event
        for event in read_log(store, since_ns)
        if (not kinds or event.kind in kinds) and (pattern is None or _is_of(event, pattern))
    )
    events = list(itertools.islice(wanted, last))[::-1]
    emit(
        as_json, list(map(_document, events)) if as_json else None, () if as_json else _rows(events)
    )
    if not events:
        note("the log has no such events")


def _is_of(event: Event, pattern: str) -> bool:
    """Return whether an event concerns, or names, an artifact that the pattern matches."""
    ids = [event.id, *_ID.findall(event.what)] if event.id else _ID.findall(event.what)
    return any(
        fnmatch.fnmatchcase(id_, pattern) or fnmatch.fnmatchcase(id_.partition(":")[0], pattern)
        for id_ in ids
    )


def _rows(events: Sequence[Event]) -> list[str]:
    rows = [
        (time_of(event.time_ns), event.kind, name_of_user(event.uid), *_size_and_text(event))
        for event in events
    ]
    return table(("TIME", "EVENT", "BY", "SIZE", "WHAT"), rows)


def _size_and_text(event: Event) -> tuple[str, str]:
    """Return the size of an event, and its ID and description."""
    texts = [text_of(text) for text in (event.id, event.what) if text]
    return size_text(event.bytes) if event.bytes else "", " ".join(texts)


def _document(event: Event) -> dict[str, object]:
    return {
        "time_ns": event.time_ns,
        "event": event.kind,
        "uid": event.uid,
        "user": name_of_user(event.uid),
        "id": event.id or None,
        "tree": event.tree or None,
        "bytes": event.bytes,
        "what": event.what,
    }
