"""Composing artifacts, whatever else happens to the store meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cas import links
from cas.artifact import Artifact
from cas.compose import Wanted, distinct, in_order
from cas.composition import Composition, find_conflicts
from cas.conflicts import Conflict, ConflictPolicy, judge
from cas.known import Known
from cas.leases import Lease
from cas.merged import Merging
from cas.put import Storage
from cas.quoting import quoted
from cas.resolve import resolve
from cas.signature import NoSuchSignature
from cas.trust import trusted


def compose(
    storage: Storage,
    known: Known,
    merging: Merging,
    names: Iterable[str],
    *,
    conflicts: ConflictPolicy | None,
    allow: Sequence[str],
    purpose: str,
) -> Composition:
    """Compose the artifacts of signatures or abbreviations; see `Store.compose`."""
    wanted = in_order(names)
    while True:
        with storage.index.read() as reader:
            artifacts = resolve(reader, [w.name for w in wanted], storage.path)
            trees = distinct(artifact.tree for artifact in artifacts)
            ids = tuple(
                str(replace(w, name=str(a.signature)))
                for w, a in zip(wanted, artifacts, strict=True)
            )
            layers = merging.layers(trees)
            named = zip(ids, (artifact.tree for artifact in artifacts), strict=True)
            # Under the lock: nobody removes what was found before it is said to be in use.
            lease = Lease(storage.path, {*trees, *(layers or ())}, named, purpose)
        try:
            _check(storage, wanted, artifacts)
            told: tuple[Conflict, ...] = ()
            if conflicts is not None:
                found = find_conflicts(artifacts, storage.layers, known)
                told = judge(found, conflicts, allow)
            if layers is None:
                merging.make(trees)
            elif merging.trust(layers, trees):
                links.note_use(storage.fd, (artifact.signature for artifact in artifacts))
                return Composition(storage.path, ids, tuple(artifacts), layers, told, lease)
        except BaseException:
            lease.close()
            raise
        lease.close()


def _check(storage: Storage, wanted: Sequence[Wanted], artifacts: Sequence[Artifact]) -> None:
    """Make sure that artifacts can be trusted. Raises NoSuchSignature."""
    checked = (trusted(storage, artifact) for artifact in artifacts)
    lost = [w.name for w, found in zip(wanted, checked, strict=True) if found is None]
    if lost:
        raise NoSuchSignature(lost, quoted(storage.path))
