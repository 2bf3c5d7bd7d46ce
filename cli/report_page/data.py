"""The data of the page of `cas report`."""

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
"""Classes of last use: names, and maximum ages in nanoseconds; the last has no maximum."""
FATES = ("kept", "pinned", "removed")
EVENTS = 50
"""The maximum number of events on a page."""


class Report(NamedTuple):
    """The data of a store at the path `store`, at the time `time_ns` (since 1970).

    `groups` are its artifacts grouped by `by`, the largest first. `ages` are the same artifacts,
    grouped by an index of AGES and a word of FATES. `cas gc` would remove `doomed` artifacts and
    free `frees` bytes; if the policy is not `limited`, it never removes any. The newest event is
    the first.
    """

    store: bytes
    time_ns: int
    by: str
    statistics: Statistics
    groups: Sequence[Group]
    ages: Sequence[Group]
    doomed: int
    frees: int
    limited: bool
    events: Sequence[Event]


def age_of(last_used_ns: int, now_ns: int) -> int:
    """Return the index of the class in AGES."""
    age = now_ns - last_used_ns
    return next(n for n, (_, most) in enumerate(AGES) if most is None or age <= most)
