"""The store: a directory of objects, layers and manifests, and the index that names them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cas import links
from cas.artifact import Artifact
from cas.composing import compose
from cas.composition import Composition
from cas.conflicts import ConflictPolicy
from cas.index import Writer
from cas.layout import layer_path
from cas.locating import located, naming_paths
from cas.manifest import Digest, Manifest
from cas.objects import Overtaken
from cas.opening import OpenStore, StrPath
from cas.quoting import quoted
from cas.resolve import resolve
from cas.signature import NoSuchSignature, Signature, named_by
from cas.storage import Storage
from cas.trust import trusted

if TYPE_CHECKING:
    from cas.findings import Finding
    from cas.gc import Collected, GcPlan
    from cas.leases import Use
    from cas.pins import Pin
    from cas.policy import Policy
    from cas.put import PutResult, Source
    from cas.removal import Removed
    from cas.tree import Place
    from cas.usage import DiskUsage


class Store(OpenStore):
    """An open store. Use it as a context manager, or close it. `objects` are its contents.

    In a child that was forked meanwhile it is good for nothing but to be closed (NotOwner), which
    the parent does not notice; the child can open the store anew then.
    """

    @naming_paths
    def put(
        self,
        signature: str | Signature,
        tree: StrPath,
        *,
        move: bool = False,
        replace: bool = False,
        place: Place = bytes,
    ) -> PutResult:
        """Store a directory, or a tar archive's tree, under a whole signature; see `put_tree`."""
        from cas.put import put_tree

        put = partial(put_tree, tree=tree, move=move, replace=replace, place=place)
        return self._put(signature, put)

    @naming_paths
    def receive(self, signature: str | Signature, source: Source) -> PutResult:
        """Store the tree that `source` makes objects of; see `cas.put.put_reading`."""
        from cas.put import put_reading

        return self._put(signature, partial(put_reading, source=source))

    def _put(
        self,
        signature: str | Signature,
        put: Callable[[Storage, Signature, Artifact | None], PutResult],
    ) -> PutResult:
        if isinstance(signature, str):
            signature = Signature.parse(signature)
        while True:
            with contextlib.suppress(Overtaken):
                done = put(self._storage, signature, self.find(signature))
                break
        if done.replaced is not None:
            self._removal.discard({done.replaced})
        if done.unchanged:
            links.note_use(self.fd, [signature])
        return done

    @naming_paths
    def find(self, signature: str | Signature) -> Artifact | None:
        """Return the artifact of a whole signature, or None. Raises BadSignature, StoreDamaged."""
        if isinstance(signature, str):
            signature = Signature.parse(signature)
        with self._index.read() as reader:
            found = reader.get(signature)
        return None if found is None else trusted(self._storage, found)

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
    def compose(
        self,
        names: Iterable[str],
        *,
        conflicts: ConflictPolicy | None = ConflictPolicy.WARN,
        allow: Sequence[str] = (),
        purpose: str = "",
    ) -> Composition:
        """Compose the artifacts of signatures or abbreviations, a later one over the earlier.

        A name may end in `@N`, its priority (default 0): higher ones come later. Conflicts at
        paths that no pattern of `allow` matches are dealt with as `conflicts` says; see
        `cas.conflicts.judge`; with None they are not looked for. `purpose` tells people who look
        at leases what it is for.

        The composition holds a lease and must be closed. Raises BadSignature, NoSuchSignature
        (which names all that are missing), AmbiguousSignature, ConflictRefused, StoreDamaged,
        OSError.
        """
        return compose(
            self._storage,
            self._known,
            self._merging,
            names,
            conflicts=conflicts,
            allow=allow,
            purpose=purpose,
        )

    @naming_paths
    def remove(self, names: Iterable[str], *, force: bool = False) -> Removed:
        """Forget artifacts; give back the space that nothing else uses.

        With `force` those too that are in use or pinned: what is mounted stays readable, and its
        space returns by the next collection after that.

        Raises NoSuchSignature, AmbiguousSignature, InUse (then nothing was removed), OSError.
        """

        from cas.removal import refuse_used

        def choose(writer: Writer) -> Sequence[Artifact]:
            artifacts = tuple(dict.fromkeys(resolve(writer, list(names), self.path)))
            if not force:
                refuse_used(artifacts, removal.uses(), pins.signatures())
            return artifacts

        pins, removal = self._pins, self._removal
        removed = removal.remove(choose)
        for artifact in removed.artifacts:
            pins.remove(artifact.signature)
        return removed._replace(freed=removed.freed + removal.discard_merged())

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
        return disk_usage(self._storage, self._known, self.artifacts(), chosen)

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
    def pin(self, name: str, reason: str = "") -> Pin:
        """Keep the artifact of a signature or abbreviation until `unpin`.

        Raises NoSuchSignature, AmbiguousSignature, OSError.
        """
        from cas.pins import Pin

        with self._index.read() as reader:  # under its lock: nobody removes the artifact meanwhile
            (artifact,) = resolve(reader, [name], self.path)
            pin = Pin(artifact.signature, reason, time.time_ns(), os.geteuid())
            self._pins.add(pin)
        return pin

    @naming_paths
    def unpin(self, name: str) -> Signature:
        """Forget the pin that a signature or abbreviation names; return whose it was.

        Raises NotPinned, AmbiguousSignature, OSError.
        """
        signature = self._pins.find(name)
        self._pins.remove(signature)
        return signature

    @naming_paths
    def pins(self) -> list[Pin]:
        """Return the pins in the order of signatures. Raises StoreDamaged, OSError."""
        return self._pins.all()

    @naming_paths
    def share(self, group: int) -> None:
        """Let everybody in the group with this id put, use and collect here.

        Raises InputRefused, OSError.
        """
        from cas.sharing import share

        share(self.fd, group)

    @naming_paths
    def plan_gc(self, policy: Policy) -> GcPlan:
        """Work out what `gc` would remove. Raises OSError, StoreDamaged."""
        return self._collector.plan(self.artifacts(), policy)

    @naming_paths
    def gc(self, plan: GcPlan, progress: Callable[[int], None] = lambda count: None) -> Collected:
        """Carry out a plan of `plan_gc`, and delete what nothing reaches; see Collector.collect."""
        return self._collector.collect(plan, progress)

    @naming_paths
    def sync(self) -> int:
        """Make all that was put survive a power failure; see `cas.sync.sync`."""
        from cas.sync import sync

        return sync(self._storage)

    def verify(
        self,
        names: Iterable[str] = (),
        *,
        quick: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Finding]:
        """Yield what is wrong with artifacts, or without names with anything in the store.

        All contents are read and hashed, unless `quick`; `progress` gets how many bytes were, of
        how many. Nothing is changed. Raises NoSuchSignature, AmbiguousSignature, OSError.
        """
        from cas.verify import verify

        with located(self.fd):
            yield from verify(self._storage, self._known, names, quick=quick, progress=progress)

    def repair(self, findings: Sequence[Finding]) -> Iterator[str]:
        """Heal what a full `verify` found, as far as it can be; yield what was done, as text.

        What is damaged and cannot be healed is moved to `quarantine/`, and artifacts that have
        it are forgotten. Raises OSError, StoreDamaged.
        """
        from cas.repair import Repair

        with located(self.fd):
            yield from Repair(self._storage, self._known, self._removal).run(findings)
