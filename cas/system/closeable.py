"""Base class for objects that close at the end of a `with` block."""

from __future__ import annotations

from typing import Self


class Closeable:
    """An object that closes itself at the end of a `with` block."""

    __slots__ = ()

    def close(self) -> None:
        """Release the resources of the object."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
