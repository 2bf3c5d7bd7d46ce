"""A work queue shared by forked processes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from cas.system.closeable import Closeable

_Item = TypeVar("_Item")
_NUMBER = struct.Struct("=I")


class SharedQueue(Closeable, Generic[_Item]):
    """A queue of items; each item is yielded once, in the process that asks for it next.

    Processes that are forked later share the offset of an open file, which read(2) moves atomically
    (since Linux 3.14, for files opened by a path: on the descriptor of memfd_create(2) itself two
    processes sometimes read the same number).
    """

    def __init__(self, items: Iterable[_Item]) -> None:
        """Create the queue. Raises OSError."""
        self._items = list(items)
        memory = os.memfd_create("cas-queue", os.MFD_CLOEXEC)
        try:
            os.pwrite(memory, b"".join(map(_NUMBER.pack, range(len(self._items)))), 0)
            self._numbers = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(memory)

    def __iter__(self) -> Iterator[_Item]:
        while data := os.read(self._numbers, _NUMBER.size):
            yield self._items[_NUMBER.unpack(data)[0]]

    def close(self) -> None:
        """Close the file. Calling it again does nothing."""
        if self._numbers >= 0:
            os.close(self._numbers)
            self._numbers = -1
