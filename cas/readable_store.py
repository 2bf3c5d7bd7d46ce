"""What can be asked of a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from cas.compose.cache import CompositionCache
from cas.content.layers import Layers
from cas.content.objects import Objects
from cas.disk.counters import Counts, add_counts
from cas.disk.layout import layer_path
from cas.disk.log import Event, read_log
from cas.index import artifact_links
from cas.index.after_reboot import recheck_after_reboot
from cas.index.database import Index
from cas.index.format import find_store
from cas.index.parts import StoreParts
from cas.index.resolve import resolve
from cas.model.artifact import Artifact
from cas.model.manifest import Digest, Manifest
from cas.model.signature import NoSuchSignature, Signature, matching_ids
from cas.system.closeable import Closeable
from cas.system.directories import DIRECTORY_FLAGS
from cas.system.oserrors import adding_paths
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.text import quoted

if TYPE_CHECKING:
    from cas.disk.leases import Use
    from cas.disk.pins import Pin
    from cas.usage.artifacts import DiskUsage
    from cas.usage.statistics import Group, Statistics

if TYPE_CHECKING:
    from cas.disk.pins import Pins
    from cas.gc.collector import Collector
    from cas.gc.removal import Removal

StrPath = str | bytes | os.PathLike[str]


class ReadableStore(Closeable):
    """The parts of an open store, which is `path`, open at `fd`. `objects` are its contents."""

    def __init__(self, path: StrPath, *, create: bool = False) -> None:
        """Open the store in the directory `path`; with `create`, make it if it is not there.

        Raises NoStore, StoreTooNew, StoreDamaged, InputRefused, OSError.
        """
        self.path = os.path.realpath(os.fsencode(path))
        find_store(self.path, create=create)
        self.fd = os.open(self.path, DIRECTORY_FLAGS)
        try:
            index, lock = (os.path.join(self.path, name) for name in (b"index", b"lock"))
            self.objects = Objects(self.path, self.fd)
            self._storage = StoreParts(
                self.path,
                self.fd,
                Index(index, lock),
                self.objects,
                Layers(self.fd, self.objects),
                CompositionCache(self.path),
            )
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Close the store. Does nothing the second time."""
        self._storage.index.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def _pins(self) -> Pins:
        from cas.disk.pins import Pins

        return Pins(self.path)

    @property
    def _removal(self) -> Removal:
        from cas.gc.removal import Removal

        return Removal(self._storage)

    @property
    def _collector(self) -> Collector:
        from cas.gc.collector import Collector

        return Collector(self._storage)

    @adding_paths
    def find(self, signature: str | Signature) -> Artifact | None:
        """Return the artifact of a whole signature, or None. Raises BadSignature, StoreDamaged."""
        if isinstance(signature, str):
            signature = Signature.parse(signature)
        with self._storage.index.read() as reader:
            found = reader.get(signature)
        return None if found is None else recheck_after_reboot(self._storage, found)

    def missing(self, signatures: Iterable[Signature]) -> list[Signature]:
        """Return those of whole signatures of which there is no artifact; the answer is counted.

        Raises StoreDamaged, OSError.
        """
        wanted = list(signatures)
        missing = [signature for signature in wanted if self.find(signature) is None]
        add_counts(self.path, Counts(has_hits=len(wanted) - len(missing), has_misses=len(missing)))
        return missing

    @adding_paths
    def resolve(self, text: str) -> Artifact:
        """Return the artifact that a signature or an unambiguous abbreviation names.

        Raises NoSuchSignature, AmbiguousSignature, StoreDamaged.
        """
        with self._storage.index.read() as reader:
            (found,) = resolve(reader, [text], self.path)
        artifact = recheck_after_reboot(self._storage, found)
        if artifact is None:
            raise NoSuchSignature([text], quoted(self.path))
        return artifact

    def artifacts(self) -> list[Artifact]:
        """Return every artifact, in the order of signatures. Raises StoreDamaged."""
        with self._storage.index.read() as reader:
            records = reader.records()
        return [record.artifact() for record in records]

    @adding_paths
    def manifest(self, artifact: Artifact) -> Manifest:
        """Return what an artifact consists of. Raises BadManifest, OSError."""
        return self.tree(artifact.tree)

    @adding_paths
    def tree(self, tree: Digest) -> Manifest:
        """Return what a stored tree consists of. Raises BadManifest, OSError."""
        return self._storage.layers.manifest(tree)

    def layer_path(self, artifact: Artifact) -> bytes:
        """Return the absolute path of an artifact's layer. It must not be written to."""
        return os.path.join(self.path, layer_path(artifact.tree))

    @adding_paths
    def uses(self) -> list[Use]:
        """Return what living processes and mounts use. Raises OSError, StoreDamaged."""
        return self._removal.uses()

    @adding_paths
    def last_used_ns(self, artifact: Artifact) -> int:
        """Return when an artifact was last used or put, in nanoseconds since 1970.

        It is right to two minutes.
        """
        return artifact_links.last_used_ns(self.fd, artifact)

    @adding_paths
    def disk_usage(self, names: Iterable[str]) -> DiskUsage:
        """Return what artifacts take on the disk; see `cas.usage.artifacts`.

        Raises NoSuchSignature, AmbiguousSignature, StoreDamaged, OSError.
        """
        from cas.usage.artifacts import disk_usage

        with self._storage.index.read() as reader:
            chosen = tuple(dict.fromkeys(resolve(reader, list(names), self.path)))
        used = self._removal.used_trees()
        return disk_usage(self._storage, used, self.artifacts(), chosen)

    @adding_paths
    def statistics(self, days: int) -> Statistics:
        """Return what the store holds and saves, and how it was used for so many days.

        Raises StoreDamaged, OSError.
        """
        from cas.usage.statistics import statistics

        return statistics(self._storage, self.artifacts(), days)

    @adding_paths
    def groups(
        self,
        name_of: Callable[[Artifact], str],
        progress: Progress = NO_PROGRESS,
    ) -> list[Group]:
        """Return what groups of artifacts take; see `cas.usage.statistics.groups`."""
        from cas.usage.statistics import groups

        return groups(self._storage, self.artifacts(), name_of, progress)

    @adding_paths
    def log(self, since_ns: int = 0) -> Iterator[Event]:
        """Yield what was logged since a time (ns since 1970), the newest first. Raises OSError."""
        return read_log(self.path, since_ns)

    @adding_paths
    def is_pinned(self, signature: Signature) -> bool:
        """Tell whether a signature is pinned. Raises OSError."""
        return signature in self._pins.signatures()

    def signatures(self) -> set[Signature]:
        """Return the signatures of all artifacts. Raises StoreDamaged."""
        with self._storage.index.read() as reader:
            return reader.signatures()

    def matching(self, names: Iterable[str]) -> frozenset[Signature]:
        """Return whole signatures as they are, and for each abbreviation all that it may name.

        Raises BadSignature.
        """
        with self._storage.index.read() as reader:
            return frozenset(s for name in names for s in matching_ids(name, reader.like))

    @adding_paths
    def pins(self) -> list[Pin]:
        """Return the pins in the order of signatures. Raises StoreDamaged, OSError."""
        return self._pins.all()
