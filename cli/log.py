"""`cas log`: what has happened to the store."""

from __future__ import annotations

import fnmatch
import itertools
import time

import click

from cas.events import Event, EventKind
from cas.usernames import user_name
from cli.options import (
    complete_id,
    emit,
    json_option,
    note,
    open_store,
    store_option,
    table,
    text_of,
    time_of,
)
from cli.quantities import age, size_text

_KINDS = click.Choice([kind.value for kind in EventKind])


@click.command("log")
@click.argument("pattern", required=False, shell_complete=complete_id)
@click.option("--event", "kinds", multiple=True, type=_KINDS, help="Only these events.")
@click.option("--since", type=age, metavar="AGE", help="Only the last AGE, as in 7d.")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the last N; 50 if neither this nor --since is given.",
)
@json_option
@store_option
@click.pass_context
def log_command(
    ctx: click.Context,
    pattern: str | None,
    kinds: tuple[str, ...],
    since: int | None,
    last: int | None,
    as_json: bool,
) -> None:
    """Tell what was put, removed or damaged, when, and by whom.

    The last event comes last. With PATTERN only those of artifacts whose recipe or whole ID it
    matches, as in a shell. Events of the last thirteen months are kept. Who may not write to the
    store leaves no trace in it.

    \b
    cas log
    cas log zlib
    cas log --since 7d --event damaged --event repaired
    """
    if last is None and since is None:
        last = 50
    store = open_store(ctx)
    since_ns = 0 if since is None else max(0, time.time_ns() - since)
    wanted = (
        event
        for event in store.log(since_ns)
        if (not kinds or event.kind in kinds) and (pattern is None or _is_of(event, pattern))
    )
    found = list(itertools.islice(wanted, last))[::-1]
    rows = [
        (time_of(event.time_ns), text_of(event.kind), user_name(event.uid), *_told(event))
        for event in found
    ]
    emit(as_json, list(map(_document, found)), table(("TIME", "EVENT", "BY", "SIZE", "WHAT"), rows))
    if not found:
        note("nothing like that is logged")


def _is_of(event: Event, pattern: str) -> bool:
    recipe = event.id.partition(":")[0]
    return fnmatch.fnmatchcase(recipe, pattern) or fnmatch.fnmatchcase(event.id, pattern)


def _told(event: Event) -> tuple[str, str]:
    """Return the size of an event, and all else that it says."""
    texts = [text_of(text) for text in (event.id, event.what) if text]
    return size_text(event.bytes) if event.bytes else "", " ".join(texts)


def _document(event: Event) -> dict[str, object]:
    return {
        "time_ns": event.time_ns,
        "event": event.kind,
        "uid": event.uid,
        "user": user_name(event.uid),
        "id": event.id or None,
        "tree": event.tree or None,
        "bytes": event.bytes,
        "what": event.what,
    }
