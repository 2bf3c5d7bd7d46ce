"""Items of which each process takes the next one, when it is ready for it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from cas.system.closeable import Closeable

_Item = TypeVar("_Item")
_NUMBER = struct.Struct("=I")


class SharedQueue(Closeable, Generic[_Item]):
    """Items, each of which is yielded once only, in whichever process asks for the next one.

    For processes that were forked meanwhile. They share the offset of an open file, which read(2)
    moves for all of them at once (since Linux 3.14, and for files that were opened by a path: what
    memfd_create(2) itself returns is not one, and two get the same number now and then).
    """

    def __init__(self, items: Iterable[_Item]) -> None:
        """Keep the items. Raises OSError."""
        self._items = list(items)
        made = os.memfd_create("cas-turns", os.MFD_CLOEXEC)
        try:
            os.pwrite(made, b"".join(map(_NUMBER.pack, range(len(self._items)))), 0)
            self._numbers = os.open(f"/proc/self/fd/{made}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(made)

    def __iter__(self) -> Iterator[_Item]:
        while data := os.read(self._numbers, _NUMBER.size):
            yield self._items[_NUMBER.unpack(data)[0]]

    def close(self) -> None:
        """Let go of the file. Does nothing the second time."""
        if self._numbers >= 0:
            os.close(self._numbers)
            self._numbers = -1
