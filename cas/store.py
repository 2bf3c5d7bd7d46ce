"""Class Store: a directory of objects, layers and manifests, and the index of their IDs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cas.compose.compose import compose
from cas.compose.composition import Composition
from cas.content.objects import ConcurrentChange
from cas.disk.counters import Counts, add_counts
from cas.disk.log import Event, EventKind, append_events, new_event, read_log
from cas.index import artifact_links
from cas.index.database import Writer
from cas.index.parts import StoreParts
from cas.index.resolve import resolve
from cas.model.artifact import Artifact
from cas.model.conflicts import ConflictPolicy
from cas.model.signature import NoSuchSignature, Signature
from cas.readable_store import ReadableStore, StrPath
from cas.system.debug_log import debug
from cas.system.oserrors import adding_path, adding_paths
from cas.system.progress import NO_PROGRESS, Progress

# Methods import these where they use them, so that a command loads only the rooms that it needs.
if TYPE_CHECKING:
    from cas.content.findings import Finding
    from cas.disk.pins import Pin
    from cas.gc.collector import Collected, GcPlan
    from cas.gc.policy import Policy
    from cas.gc.removal import Removed
    from cas.put.put import PutResult, Source
    from cas.put.scan_result import Place


class Store(ReadableStore):
    """An open store. Use it as a context manager, or close it.

    A forked child can only close it (everything else raises NotOwner), without effect on the
    parent, and open a new Store.
    """

    @adding_paths
    def put(
        self,
        signature: str | Signature,
        tree: StrPath,
        *,
        move: bool = False,
        replace: bool = False,
        place: Place = bytes,
        progress: Progress = NO_PROGRESS,
    ) -> PutResult:
        """Store a directory, or the tree of a tar archive, under a complete ID; see `put_tree`."""
        from cas.put.put import put_tree

        put = partial(
            put_tree, tree=tree, move=move, replace=replace, place=place, progress=progress
        )
        return self._put(signature, put)

    @adding_paths
    def receive(self, signature: str | Signature, source: Source, origin: str) -> PutResult:
        """Store the tree that `source` reads; see `cas.put.put.put_source`."""
        from cas.put.put import put_source

        return self._put(signature, partial(put_source, source=source, origin=origin))

    def _put(
        self,
        signature: str | Signature,
        put: Callable[[StoreParts, Signature, Artifact | None], PutResult],
    ) -> PutResult:
        if isinstance(signature, str):
            signature = Signature.parse(signature)
        while True:
            try:
                result = put(self._storage, signature, self.find(signature))
                break
            except ConcurrentChange:
                debug("put: %s or its layer was changed by another process, retrying", signature)
        if result.replaced is not None:
            self._removal.discard({result.replaced})
        if result.unchanged:  # only a put that stores something sets the time of last use itself
            artifact_links.note_uses(self.fd, [signature])
        return result

    @adding_paths
    def compose(
        self,
        names: Iterable[str],
        *,
        conflicts: ConflictPolicy | None = ConflictPolicy.WARN,
        allow: Sequence[str] = (),
        purpose: str = "",
        counted: bool = True,
    ) -> Composition:
        """Compose the artifacts of IDs or abbreviations, later ones over earlier ones.

        A name may end in `@N`, its priority (default 0); higher priorities come later. `conflicts`
        is the policy for conflicts at paths that no pattern of `allow` matches (see
        `cas.model.conflicts.apply_policy`); None skips the search for conflicts. `purpose` is shown
        to people who list leases. If `counted`, missing artifacts count as misses for `cas stats`.

        The composition holds a lease and must be closed. Raises BadSignature, NoSuchSignature (with
        all missing names), AmbiguousSignature, ConflictRefused, StoreDamaged, OSError.
        """
        try:
            return compose(
                self._storage,
                names,
                conflicts=conflicts,
                allow=allow,
                purpose=purpose,
            )
        except NoSuchSignature as error:
            if counted:
                add_counts(self.path, Counts(mount_misses=len(error.missing)))
            raise

    @adding_paths
    def remove(
        self, names: Iterable[str], *, force: bool = False, progress: Progress = NO_PROGRESS
    ) -> Removed:
        """Remove artifacts, and free the space that nothing else uses.

        `force` includes artifacts that are in use or pinned. Mounted ones stay readable, and a
        later gc frees their space. `progress` counts bytes freed.

        Raises NoSuchSignature, AmbiguousSignature, InUse (nothing was removed), OSError.
        """
        from cas.gc.removal import refuse_used

        def choose(writer: Writer) -> Sequence[Artifact]:
            artifacts = tuple(dict.fromkeys(resolve(writer, list(names), self.path)))
            if not force:
                refuse_used(artifacts, removal.uses(), pins.signatures())
            return artifacts

        pins, removal = self._pins, self._removal
        removed = removal.remove(choose, EventKind.REMOVED, progress=progress)
        for artifact in removed.artifacts:
            pins.remove(artifact.signature)
        return removed._replace(freed=removed.freed + removal.discard_merged())

    @adding_paths
    def pin(self, name: str, reason: str = "") -> Pin:
        """Pin the artifact of an ID or abbreviation: gc keeps it until `unpin`.

        Raises NoSuchSignature, AmbiguousSignature, OSError.
        """
        from cas.disk.pins import Pin

        # Under the lock of the index, so that `cas rm` and `cas gc` cannot remove the artifact
        # between the lookup and the pin.
        with self._storage.index.read() as reader:
            (artifact,) = resolve(reader, [name], self.path)
            pin = Pin(artifact.signature, reason, time.time_ns(), os.geteuid())
            self._pins.add(pin)
        append_events(self.fd, [new_event(EventKind.PINNED, pin.signature, what=reason)])
        return pin

    @adding_paths
    def unpin(self, name: str) -> Signature:
        """Remove the pin of an ID or abbreviation; return its ID.

        Raises NotPinned, AmbiguousSignature, OSError.
        """
        signature = self._pins.find(name)
        self._pins.remove(signature)
        append_events(self.fd, [new_event(EventKind.UNPINNED, signature)])
        return signature

    @adding_paths
    def share(self, group: int, progress: Progress = NO_PROGRESS) -> None:
        """Share the store with the group ID `group`: its users can put, use and collect artifacts.

        `progress` counts files. Raises InputRefused, OSError.
        """
        from cas.disk.group_sharing import share_store

        share_store(self.fd, group, progress)

    @adding_paths
    def plan_gc(self, policy: Policy) -> GcPlan:
        """Plan a garbage collection. Raises OSError, StoreDamaged."""
        return self._collector.plan(self.artifacts(), policy)

    @adding_paths
    def gc(self, plan: GcPlan, progress: Progress = NO_PROGRESS) -> Collected:
        """Carry out a plan of `plan_gc`, and delete unreachable files; see Collector.collect."""
        return self._collector.collect(plan, progress)

    @adding_paths
    def sync(self, progress: Progress = NO_PROGRESS) -> int:
        """Write all stored data to the disk; see `cas.verify.sync.sync`."""
        from cas.verify.sync import sync

        return sync(self._storage, progress)

    def verify(
        self,
        names: Iterable[str] = (),
        *,
        quick: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> Iterator[Finding]:
        """Yield the faults of artifacts or, without names, of the whole store.

        All contents are read and hashed, unless `quick`; `progress` counts bytes. Nothing is
        changed. Raises NoSuchSignature, AmbiguousSignature, OSError.
        """
        from cas.verify.verify import verify

        with adding_path(self.fd):
            findings = verify(self._storage, names, quick=quick, progress=progress)
            logged: set[str] | None = None
            for finding in findings:
                if finding.kind.is_damage:
                    logged = _logged_damage(self.path) if logged is None else logged
                    damage = _damage_event(finding)
                    append_events(self.fd, [] if damage.what in logged else [damage])
                yield finding

    def repair(self, findings: Sequence[Finding]) -> Iterator[str]:
        """Repair the findings of a full `verify` where possible; yield each repair as text.

        Files that cannot be repaired are moved to `quarantine/`, and the artifacts that have them
        are removed. Raises OSError, StoreDamaged.
        """
        from cas.verify.repair import Repair

        with adding_path(self.fd):
            for repair in Repair(self._storage).run(findings):
                append_events(self.fd, [new_event(EventKind.REPAIRED, what=repair)])
                yield repair


def _logged_damage(store: bytes) -> set[str]:
    """Return the damage logged since the last repair; nothing if this user may not read the log."""
    logged = set()
    with contextlib.suppress(OSError):
        for event in read_log(store):
            if event.kind == EventKind.REPAIRED.value:
                break
            if event.kind == EventKind.DAMAGED.value:
                logged.add(event.what)
    return logged


def _damage_event(finding: Finding) -> Event:
    if len(finding.signatures) == 1:  # which the event has as a field of its own
        (signature,) = finding.signatures
        what = str(finding._replace(signatures=()))
        return new_event(EventKind.DAMAGED, signature, what=what)
    return new_event(EventKind.DAMAGED, what=str(finding))
