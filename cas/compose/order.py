"""The order of artifacts in a composition: `ID@N`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from cas.model.signature import BadSignature

_PRIORITY = re.compile(r"-?[0-9]{1,9}")


class PrioritizedName(NamedTuple):
    """What is asked for: a signature or abbreviation, and its priority."""

    name: str
    priority: int = 0

    @classmethod
    def parse(cls, text: str) -> PrioritizedName:
        """Read `ID` or `ID@PRIORITY`. Raises BadSignature."""
        name, at, priority = text.partition("@")
        if not name:
            raise BadSignature(text, "it is empty")
        if not at:
            return cls(name)
        if not _PRIORITY.fullmatch(priority):
            why = f"the priority {priority!r} is no whole number of at most nine digits"
            raise BadSignature(text, why)
        return cls(name, int(priority))


def with_priority(name: str, priority: int) -> str:
    """Return what `PrioritizedName.parse` reads."""
    return f"{name}@{priority}" if priority else name


def sort_by_priority(names: Iterable[str]) -> list[PrioritizedName]:
    """Return what is asked for, lowest first: by priority, those of equal priority as given.

    Raises BadSignature.
    """
    return sorted(map(PrioritizedName.parse, names), key=lambda wanted: wanted.priority)
