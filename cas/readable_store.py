"""The read-only half of Store."""

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

# Methods import these where they use them, so that a command loads only the rooms that it needs.
if TYPE_CHECKING:
    from cas.disk.leases import Use
    from cas.disk.pins import Pin, Pins
    from cas.gc.collector import Collector
    from cas.gc.removal import Removal
    from cas.usage.artifacts import DiskUsage
    from cas.usage.statistics import Group, Statistics

StrPath = str | bytes | os.PathLike[str]


class ReadableStore(Closeable):
    """An open store at the absolute path `path`, with the methods that do not change it.

    `fd` is its open directory, and `objects` are its contents.
    """

    def __init__(self, path: StrPath, *, create: bool = False) -> None:
        """Open the store in the directory `path`; with `create`, create a missing store.

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
        """Close the store. Calling it again does nothing."""
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
        """Return the artifact of a complete ID, or None. Raises BadSignature, StoreDamaged."""
        if isinstance(signature, str):
            signature = Signature.parse(signature)
        with self._storage.index.read() as reader:
            recorded = reader.get(signature)
        return None if recorded is None else recheck_after_reboot(self._storage, recorded)

    def missing(self, signatures: Iterable[Signature]) -> list[Signature]:
        """Return the IDs that have no artifact, and count hits and misses for `cas stats`.

        Raises StoreDamaged, OSError.
        """
        wanted = list(signatures)
        missing = [signature for signature in wanted if self.find(signature) is None]
        add_counts(self.path, Counts(has_hits=len(wanted) - len(missing), has_misses=len(missing)))
        return missing

    @adding_paths
    def resolve(self, text: str) -> Artifact:
        """Return the artifact of an ID or an unambiguous abbreviation.

        Raises NoSuchSignature, AmbiguousSignature, StoreDamaged.
        """
        with self._storage.index.read() as reader:
            (recorded,) = resolve(reader, [text], self.path)
        artifact = recheck_after_reboot(self._storage, recorded)
        if artifact is None:
            raise NoSuchSignature([text], quoted(self.path))
        return artifact

    def artifacts(self) -> list[Artifact]:
        """Return all artifacts in the order of their IDs. Raises StoreDamaged."""
        with self._storage.index.read() as reader:
            records = reader.records()
        return [record.artifact() for record in records]

    @adding_paths
    def manifest(self, artifact: Artifact) -> Manifest:
        """Return the manifest of an artifact. Raises BadManifest, OSError."""
        return self.tree(artifact.tree)

    @adding_paths
    def tree(self, tree: Digest) -> Manifest:
        """Return the manifest of a stored tree. Raises BadManifest, OSError."""
        return self._storage.layers.manifest(tree)

    def layer_path(self, artifact: Artifact) -> bytes:
        """Return the absolute path of the layer of an artifact, which must not be modified."""
        return os.path.join(self.path, layer_path(artifact.tree))

    @adding_paths
    def uses(self) -> list[Use]:
        """Return the uses of running processes and mounts. Raises OSError, StoreDamaged."""
        return self._removal.uses()

    @adding_paths
    def last_used_ns(self, artifact: Artifact) -> int:
        """Return the time of last use or put of an artifact (ns since 1970), to two minutes."""
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
        """Return the statistics of the store, with the last `days` days of use.

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
        """Return the disk usage of groups of artifacts; see `cas.usage.statistics.groups`."""
        from cas.usage.statistics import groups

        return groups(self._storage, self.artifacts(), name_of, progress)

    @adding_paths
    def log(self, since_ns: int = 0) -> Iterator[Event]:
        """Yield the events since a time (ns since 1970), the newest first. Raises OSError."""
        return read_log(self.path, since_ns)

    @adding_paths
    def is_pinned(self, signature: Signature) -> bool:
        """Return whether an ID is pinned. Raises OSError."""
        return signature in self._pins.signatures()

    def signatures(self) -> set[Signature]:
        """Return the IDs of all artifacts. Raises StoreDamaged."""
        with self._storage.index.read() as reader:
            return reader.signatures()

    def matching(self, names: Iterable[str]) -> frozenset[Signature]:
        """Return complete IDs unchanged, and for each abbreviation all stored IDs that it matches.

        Raises BadSignature.
        """
        with self._storage.index.read() as reader:
            return frozenset(s for name in names for s in matching_ids(name, reader.like))

    @adding_paths
    def pins(self) -> list[Pin]:
        """Return the pins in the order of their IDs. Raises StoreDamaged, OSError."""
        return self._pins.all()
