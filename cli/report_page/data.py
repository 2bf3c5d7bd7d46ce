"""What the page of `cas report` tells, before it is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cas.disk.counters import DAY_NS
from cas.disk.log import Event
from cas.usage.statistics import Group, Statistics

AGES = (
    ("within a day", DAY_NS),
    ("within a week", 7 * DAY_NS),
    ("within a month", 30 * DAY_NS),
    ("within 3 months", 90 * DAY_NS),
    ("longer ago", None),
)
"""For how long something may not have been used to be called so; the last is all else."""
FATES = ("stays", "pinned", "goes")
EVENTS = 50
"""How many events a page tells."""


class Report(NamedTuple):
    """What a page tells of the store at the path `store`, as it was at `time_ns` (since 1970).

    `groups` are the artifacts by `by`, the largest first; `ages` by when they were last used, and
    what becomes of them: a number of AGES, and a word of FATES. `cas gc` would let `doomed` ones
    go, and free `frees` bytes; nothing ever if it is not `limited`. `events` come newest first.
    """

    store: bytes
    time_ns: int
    by: str
    found: Statistics
    groups: Sequence[Group]
    ages: Sequence[Group]
    doomed: int
    frees: int
    limited: bool
    events: Sequence[Event]


def age_of(last_used_ns: int, now_ns: int) -> int:
    """Return which of AGES something has."""
    age = now_ns - last_used_ns
    return next(n for n, (_, most) in enumerate(AGES) if most is None or age <= most)
