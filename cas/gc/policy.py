"""Which artifacts of a store may go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from cas.disk.counters import DAY_NS, HOUR_NS
from cas.disk.last_use import PRECISION_NS
from cas.model.artifact import Artifact
from cas.model.signature import Signature

_UNNOTED_NS = 2 * PRECISION_NS
"""For how long an artifact may be used without a note: its composition's, and then its own."""


class Policy(NamedTuple):
    """What keeps artifacts that are not pinned, in use, or younger than `grace_ns`.

    `max_age_ns` keeps those used since, `live` those it names, `keep_last` that many newest of
    each recipe, architecture and task, `max_size` (bytes) those most recently used, as far as
    the store fits. What any of them keeps stays. Without any of the four, all stay.
    """

    max_age_ns: int | None = None
    max_size: int | None = None
    live: frozenset[Signature] | None = None
    keep_last: int | None = None
    grace_ns: int = HOUR_NS

    @property
    def keeps_all(self) -> bool:
        """Whether no artifact can go."""
        return (self.max_age_ns, self.max_size, self.live, self.keep_last) == (None,) * 4

    @property
    def least_age_ns(self) -> int:
        """For how long something must not have been used before it may go."""
        return max(self.grace_ns, self.max_age_ns or 0)


class Candidate(NamedTuple):
    """An artifact that may go, last used at `last_used_ns`; `reason` says why, as text."""

    artifact: Artifact
    last_used_ns: int
    reason: str


def select_candidates(
    artifacts: Iterable[tuple[Artifact, int]],
    policy: Policy,
    *,
    used: Set[str],
    pinned: Set[Signature],
    now_ns: int,
) -> list[Candidate]:
    """Return what may go of artifacts, given with their times of last use; the oldest use first.

    `used` are trees, `pinned` signatures. `max_size` is not looked at: what it keeps depends on
    sizes.
    """
    if policy.keeps_all:
        return []
    everything = list(artifacts)
    newest = _newest((artifact for artifact, _ in everything), policy.keep_last or 0)
    found = []
    for artifact, last_used in everything:
        signature = artifact.signature
        if signature in pinned or signature in newest or artifact.tree in used:
            continue
        if policy.live is not None and signature in policy.live:
            continue
        age = now_ns - last_used
        if age < policy.least_age_ns + (policy.least_age_ns and _UNNOTED_NS):
            continue
        found.append(Candidate(artifact, last_used, ", ".join(_reasons(policy, age))))
    return sorted(found, key=lambda one: (one.last_used_ns, str(one.artifact.signature)))


def _newest(artifacts: Iterable[Artifact], count: int) -> set[Signature]:
    """Return the `count` artifacts that were put last of each recipe, architecture and task."""
    seen: Counter[tuple[str, str | None, str]] = Counter()
    newest = set()
    if count:
        for artifact in sorted(artifacts, key=lambda a: a.created_ns, reverse=True):
            signature = artifact.signature
            group = (signature.recipe, signature.arch, signature.task)
            seen[group] += 1
            if seen[group] <= count:
                newest.add(signature)
    return newest


def _reasons(policy: Policy, age_ns: int) -> Iterator[str]:
    if policy.live is not None:
        yield "not in the list of what is live"
    if policy.keep_last is not None:
        yield f"not among the newest {policy.keep_last}"
    if policy.max_age_ns is not None:
        yield f"not used for {_duration(age_ns)}"
    if policy.max_size is not None:
        yield "least recently used"


def _duration(nanoseconds: int) -> str:
    for name, length in (("days", DAY_NS), ("hours", HOUR_NS), ("minutes", HOUR_NS // 60)):
        if nanoseconds >= 2 * length:
            return f"{nanoseconds // length} {name}"
    return f"{nanoseconds // 10**9} seconds"
