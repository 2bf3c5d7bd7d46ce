"""The policy of a garbage collection, and its candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from cas.disk.counters import DAY_NS, HOUR_NS
from cas.disk.last_use import PRECISION_NS
from cas.model.artifact import Artifact
from cas.model.signature import Signature

_UNNOTED_NS = 2 * PRECISION_NS
"""Uses are noted with a delay: first that of the composition, then that of the artifact."""


class Policy(NamedTuple):
    """The limits of a collection.

    Artifacts that are pinned, in use, or younger than `grace_ns` are always kept. `max_age_ns`
    keeps artifacts used since then, `live` the named ones, `keep_last` the newest ones of each
    recipe, architecture and task, and `max_size` (bytes) the most recently used ones that fit. An
    artifact is kept if any limit keeps it. Without limits, all artifacts are kept.
    """

    max_age_ns: int | None = None
    max_size: int | None = None
    live: frozenset[Signature] | None = None
    keep_last: int | None = None
    grace_ns: int = HOUR_NS

    @property
    def keeps_all(self) -> bool:
        """Whether the policy has no limits, and so keeps all artifacts."""
        return (self.max_age_ns, self.max_size, self.live, self.keep_last) == (None,) * 4

    @property
    def min_age_ns(self) -> int:
        """The minimum time since the last use of a candidate (ns)."""
        return max(self.grace_ns, self.max_age_ns or 0)


class Candidate(NamedTuple):
    """An artifact that may be removed, last used at `last_used_ns`; `reason` is text for people."""

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
    """Return the candidates among artifacts with their times of last use, least recent first.

    `used` are trees, `pinned` are IDs. `max_size` is ignored here, since it depends on sizes.
    """
    if policy.keeps_all:
        return []
    with_uses = list(artifacts)
    newest = _newest((artifact for artifact, _ in with_uses), policy.keep_last or 0)
    candidates = []
    for artifact, last_used in with_uses:
        signature = artifact.signature
        if signature in pinned or signature in newest or artifact.tree in used:
            continue
        if policy.live is not None and signature in policy.live:
            continue
        age = now_ns - last_used
        if age < policy.min_age_ns + (policy.min_age_ns and _UNNOTED_NS):
            continue
        candidates.append(Candidate(artifact, last_used, ", ".join(_reasons(policy, age))))
    return sorted(candidates, key=lambda c: (c.last_used_ns, str(c.artifact.signature)))


def _newest(artifacts: Iterable[Artifact], count: int) -> set[Signature]:
    """Return the IDs of the `count` newest artifacts of each recipe, architecture and task."""
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
        yield "not in the list of IDs to keep"
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
