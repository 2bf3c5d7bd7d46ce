"""Opening a store, and its parts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cas.closing import Closing
from cas.dirs import OPEN_DIRECTORY
from cas.format import find_store
from cas.index import Index
from cas.known import Known
from cas.layers import Layers
from cas.merged import Merging
from cas.objects import Objects
from cas.storage import Storage

if TYPE_CHECKING:
    from cas.gc import Collector
    from cas.pins import Pins
    from cas.removal import Removal

StrPath = str | bytes | os.PathLike[str]


class OpenStore(Closing):
    """The parts of an open store, which is `path`, open at `fd`. `objects` are its contents."""

    def __init__(self, path: StrPath, *, create: bool = False) -> None:
        """Open the store in the directory `path`; with `create`, make it if it is not there.

        Raises NoStore, StoreTooNew, StoreDamaged, InputRefused, OSError.
        """
        self.path = os.path.realpath(os.fsencode(path))
        find_store(self.path, create=create)
        self.fd = os.open(self.path, OPEN_DIRECTORY)
        try:
            index, lock = (os.path.join(self.path, name) for name in (b"index", b"lock"))
            self._index = Index(index, lock)
            self.objects = Objects(self.path, self.fd)
            self._layers = Layers(self.fd, self.objects)
            self._known = Known(self.path)
            self._storage = Storage(self.path, self.fd, self._index, self.objects, self._layers)
            self._merging = Merging(self._storage, self._known)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Close the store. Does nothing the second time."""
        self._index.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def _pins(self) -> Pins:
        from cas.pins import Pins

        return Pins(self.path)

    @property
    def _removal(self) -> Removal:
        from cas.removal import Removal

        return Removal(self._storage, self._known, self._merging)

    @property
    def _collector(self) -> Collector:
        from cas.gc import Collector

        return Collector(self._storage, self._known, self._pins, self._removal)
