"""Statistics of a store: its content, its savings, and its use."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from cas.disk.counters import DAY_NS, Counts, read_counts
from cas.disk.log import EventKind, read_log
from cas.errors import StoreDamaged
from cas.index import artifact_links
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.system.progress import NO_PROGRESS, Progress, counter
from cas.usage.artifacts import sizes_of
from cas.usage.space import Space, space


class Day(NamedTuple):
    """The events of one day (`day` is in days since 1970, UTC) according to the log.

    `put` artifacts were stored and took `put_bytes` of disk space. `gone` artifacts were removed,
    collected or lost, and `freed_bytes` were freed. `damaged` is the number of damages found.
    """

    day: int
    counts: Counts = Counts()
    put: int = 0
    put_bytes: int = 0
    gone: int = 0
    freed_bytes: int = 0
    damaged: int = 0


class Statistics(NamedTuple):
    """The statistics of a store.

    `artifacts` with `trees` different trees have `files` files of `logical` bytes; `space` is the
    disk space of the store. `ever` is the sum of the counts of all days, and `days` are the last
    days, oldest first.
    """

    artifacts: int
    trees: int
    files: int
    logical: int
    space: Space
    ever: Counts
    days: tuple[Day, ...]

    @property
    def saved(self) -> int:
        """The bytes saved by storing each content once."""
        return max(0, self.logical - self.space.content_bytes)


class Group(NamedTuple):
    """A group of artifacts, such as those of the recipe `name`.

    `logical` is the size of their files, and `disk` their disk space with each content counted
    once, of which `own` is not shared with other groups (all in bytes). `share` splits shared bytes
    evenly, so that the shares add up to the total. `last_used_ns` is since 1970.
    """

    name: str
    artifacts: int
    files: int
    logical: int
    disk: int
    own: int
    share: int
    last_used_ns: int


def statistics(storage: StoreParts, artifacts: Sequence[Artifact], days: int) -> Statistics:
    """Return the statistics of all `artifacts` of a store, and of the last `days` days.

    Raises OSError, StoreDamaged.
    """
    counts = read_counts(storage.path)
    ever = Counts()
    for day_counts in counts.values():
        ever = ever.plus(day_counts)
    return Statistics(
        len(artifacts),
        len({artifact.tree for artifact in artifacts}),
        sum(artifact.files for artifact in artifacts),
        sum(artifact.size for artifact in artifacts),
        space(storage, artifacts),
        ever,
        tuple(_days(storage, counts, days)),
    )


def _days(storage: StoreParts, counts: dict[int, Counts], number: int) -> Iterable[Day]:
    today = time.time_ns() // DAY_NS
    first = today - number + 1
    found = {day: Day(day, counts.get(day, Counts())) for day in range(first, today + 1)}
    for event in read_log(storage.path, first * DAY_NS):
        day = found.get(event.time_ns // DAY_NS)
        if day is None:  # logged by a clock that was ahead
            continue
        match event.kind:
            case EventKind.PUT.value:
                day = day._replace(put=day.put + 1, put_bytes=day.put_bytes + event.bytes)
            case EventKind.MERGED.value | EventKind.REPAIRED.value:
                day = day._replace(put_bytes=day.put_bytes + event.bytes)
            case EventKind.REMOVED.value | EventKind.COLLECTED.value | EventKind.LOST.value:
                day = day._replace(gone=day.gone + 1)
            case EventKind.FREED.value:
                day = day._replace(freed_bytes=day.freed_bytes + event.bytes)
            case EventKind.DAMAGED.value:
                day = day._replace(damaged=day.damaged + 1)
        found[day.day] = day
    return found.values()


def _sizes(storage: StoreParts, artifact: Artifact) -> dict[bytes, int]:
    """Return `sizes_of` an artifact; nothing if it was removed meanwhile."""
    try:
        return sizes_of(storage, artifact)
    except StoreDamaged:
        with storage.index.read() as reader:
            if reader.get(artifact.signature) == artifact:
                raise
        return {}


def groups(
    storage: StoreParts,
    artifacts: Sequence[Artifact],
    name_of: Callable[[Artifact], str],
    progress: Progress = NO_PROGRESS,
) -> list[Group]:
    """Return the disk usage of groups of artifacts, the largest share first.

    `progress` gets artifacts. Raises OSError, StoreDamaged.
    """
    step = counter(progress, len(artifacts))
    members: dict[str, list[Artifact]] = defaultdict(list)
    for artifact in artifacts:
        members[name_of(artifact)].append(artifact)
    sizes: dict[bytes, int] = {}
    holders: dict[bytes, int] = {}  # a bit for each group
    for number, of_group in enumerate(members.values()):
        for artifact in of_group:
            for path, size in _sizes(storage, artifact).items():
                sizes[path] = size
                holders[path] = holders.get(path, 0) | 1 << number
            step(1)
    disk, own, share = ([0] * len(members) for _ in range(3))
    for path, size in sizes.items():
        having = holders[path]
        part, rest = divmod(size, having.bit_count())
        while having:
            number = (having & -having).bit_length() - 1
            disk[number] += size
            share[number] += part + rest
            own[number] += size if part == size else 0
            rest = 0
            having &= having - 1
    found = [
        Group(
            name,
            len(of_group),
            sum(artifact.files for artifact in of_group),
            sum(artifact.size for artifact in of_group),
            disk[number],
            own[number],
            share[number],
            max(artifact_links.last_used_ns(storage.fd, artifact) for artifact in of_group),
        )
        for number, (name, of_group) in enumerate(members.items())
    ]
    return sorted(found, key=lambda group: (-group.share, group.name))
