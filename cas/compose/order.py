"""The order of artifacts in a composition: `ID@N`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from cas.model.signature import BadSignature

_PRIORITY = re.compile(r"-?[0-9]{1,9}")


class PrioritizedName(NamedTuple):
    """A requested ID or abbreviation with its priority."""

    name: str
    priority: int = 0

    @classmethod
    def parse(cls, text: str) -> PrioritizedName:
        """Parse `ID` or `ID@PRIORITY`. Raises BadSignature."""
        name, at, priority = text.partition("@")
        if not name:
            raise BadSignature(text, "it is empty")
        if not at:
            return cls(name)
        if not _PRIORITY.fullmatch(priority):
            reason = f"the priority {priority!r} is not an integer of at most nine digits"
            raise BadSignature(text, reason)
        return cls(name, int(priority))


def with_priority(name: str, priority: int) -> str:
    """Return `NAME@PRIORITY`, or the name alone if the priority is 0."""
    return f"{name}@{priority}" if priority else name


def sort_by_priority(names: Iterable[str]) -> list[PrioritizedName]:
    """Parse names and sort them, lowest first: by priority, then in the given order.

    Raises BadSignature.
    """
    return sorted(map(PrioritizedName.parse, names), key=lambda wanted: wanted.priority)
