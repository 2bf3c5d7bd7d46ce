"""The open parts of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cas.content.layers import Layers
from cas.content.objects import Objects
from cas.index.database import Index

if TYPE_CHECKING:
    from cas.compose.cache import CompositionCache


@dataclass(frozen=True, slots=True)
class StoreParts:
    """The open parts of the store at the absolute path `path`, open at `fd`.

    The Store owns and closes them; everything that works on a store borrows this one object.
    """

    path: bytes
    fd: int
    index: Index
    objects: Objects
    layers: Layers
    compositions: CompositionCache
