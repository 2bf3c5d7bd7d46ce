"""What can be asked of a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from cas import links
from cas.artifact import Artifact
from cas.counts import Counts, count
from cas.events import Event, read_log
from cas.layout import layer_path
from cas.locating import naming_paths
from cas.manifest import Digest, Manifest
from cas.opening import OpenStore
from cas.progress import Progress, unseen
from cas.quoting import quoted
from cas.resolve import resolve
from cas.signature import NoSuchSignature, Signature, named_by
from cas.trust import trusted

if TYPE_CHECKING:
    from cas.leases import Use
    from cas.pins import Pin
    from cas.statistics import Group, Statistics
    from cas.usage import DiskUsage


class StoreQuestions(OpenStore):
    """The part of an open store that only looks."""

    @naming_paths
    def find(self, signature: str | Signature) -> Artifact | None:
        """Return the artifact of a whole signature, or None. Raises BadSignature, StoreDamaged."""
        if isinstance(signature, str):
            signature = Signature.parse(signature)
        with self._index.read() as reader:
            found = reader.get(signature)
        return None if found is None else trusted(self._storage, found)

    def missing(self, signatures: Iterable[Signature]) -> list[Signature]:
        """Return those of whole signatures of which there is no artifact; the answer is counted.

        Raises StoreDamaged, OSError.
        """
        wanted = list(signatures)
        missing = [signature for signature in wanted if self.find(signature) is None]
        count(self.path, Counts(has_hits=len(wanted) - len(missing), has_misses=len(missing)))
        return missing

    @naming_paths
    def resolve(self, text: str) -> Artifact:
        """Return the artifact that a signature or an unambiguous abbreviation names.

        Raises NoSuchSignature, AmbiguousSignature, StoreDamaged.
        """
        with self._index.read() as reader:
            (found,) = resolve(reader, [text], self.path)
        artifact = trusted(self._storage, found)
        if artifact is None:
            raise NoSuchSignature([text], quoted(self.path))
        return artifact

    def artifacts(self) -> list[Artifact]:
        """Return every artifact, in the order of signatures. Raises StoreDamaged."""
        with self._index.read() as reader:
            records = reader.records()
        return [record.artifact() for record in records]

    @naming_paths
    def manifest(self, artifact: Artifact) -> Manifest:
        """Return what an artifact consists of. Raises BadManifest, OSError."""
        return self.tree(artifact.tree)

    @naming_paths
    def tree(self, tree: Digest) -> Manifest:
        """Return what a stored tree consists of. Raises BadManifest, OSError."""
        return self._layers.manifest(tree)

    def layer_path(self, artifact: Artifact) -> bytes:
        """Return the absolute path of an artifact's layer. It must not be written to."""
        return os.path.join(self.path, layer_path(artifact.tree))

    @naming_paths
    def uses(self) -> list[Use]:
        """Return what living processes and mounts use. Raises OSError, StoreDamaged."""
        return self._removal.uses()

    @naming_paths
    def last_used_ns(self, artifact: Artifact) -> int:
        """Return when an artifact was last used or put, in nanoseconds since 1970.

        It is right to two minutes.
        """
        return links.last_used_ns(self.fd, artifact)

    @naming_paths
    def disk_usage(self, names: Iterable[str]) -> DiskUsage:
        """Return what artifacts take on the disk; see `cas.usage`.

        Raises NoSuchSignature, AmbiguousSignature, StoreDamaged, OSError.
        """
        from cas.usage import disk_usage

        with self._index.read() as reader:
            chosen = tuple(dict.fromkeys(resolve(reader, list(names), self.path)))
        used = self._removal.used_trees()
        return disk_usage(self._storage, self._known, used, self.artifacts(), chosen)

    @naming_paths
    def statistics(self, days: int) -> Statistics:
        """Return what the store holds and saves, and how it was used for so many days.

        Raises StoreDamaged, OSError.
        """
        from cas.statistics import statistics

        return statistics(self._storage, self.artifacts(), days)

    @naming_paths
    def groups(
        self,
        name_of: Callable[[Artifact], str],
        progress: Progress = unseen,
    ) -> list[Group]:
        """Return what groups of artifacts take; see `cas.statistics.groups`."""
        from cas.statistics import groups

        return groups(self._storage, self.artifacts(), name_of, progress)

    @naming_paths
    def log(self, since_ns: int = 0) -> Iterator[Event]:
        """Yield what was logged since a time (ns since 1970), the newest first. Raises OSError."""
        return read_log(self.path, since_ns)

    @naming_paths
    def is_pinned(self, signature: Signature) -> bool:
        """Tell whether a signature is pinned. Raises OSError."""
        return signature in self._pins.signatures()

    def signatures(self) -> set[Signature]:
        """Return the signatures of all artifacts. Raises StoreDamaged."""
        with self._index.read() as reader:
            return reader.signatures()

    def matching(self, names: Iterable[str]) -> frozenset[Signature]:
        """Return whole signatures as they are, and for each abbreviation all that it may name.

        Raises BadSignature.
        """
        with self._index.read() as reader:
            return frozenset(s for name in names for s in named_by(name, reader.like))

    @naming_paths
    def pins(self) -> list[Pin]:
        """Return the pins in the order of signatures. Raises StoreDamaged, OSError."""
        return self._pins.all()
