"""The open parts of a store, which what works on it borrows."""

from __future__ import annotations

from dataclasses import dataclass

from cas.content.layers import Layers
from cas.content.objects import Objects
from cas.index.database import Index


@dataclass(frozen=True, slots=True)
class StoreParts:
    """The open parts of the store at the absolute path `path`, open at `fd` (all borrowed)."""

    path: bytes
    fd: int
    index: Index
    objects: Objects
    layers: Layers
