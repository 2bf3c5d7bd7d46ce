"""Composes artifacts into one tree, safely while other processes change the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cas.compose.cache import composition_key
from cas.compose.composition import Composition
from cas.compose.merged_layers import MergedLayers
from cas.compose.order import PrioritizedName, sort_by_priority, with_priority
from cas.disk.boot import boot_id
from cas.disk.leases import Lease
from cas.index import artifact_links
from cas.index.after_reboot import recheck_after_reboot
from cas.index.parts import StoreParts
from cas.index.resolve import resolve_records
from cas.model.artifact import IndexRecord, recorded_signature
from cas.model.conflicts import Conflict, ConflictPolicy, apply_policy, find_overlaps
from cas.model.manifest import Digest
from cas.model.signature import NoSuchSignature
from cas.model.union import drop_repeated
from cas.system.text import quoted


class _LeasedArtifacts(NamedTuple):
    """Artifacts under a lease, lowest first.

    `layers` are the trees to mount; None if the merged layer of these artifacts does not exist.
    """

    ids: tuple[str, ...]
    records: tuple[IndexRecord, ...]
    layers: tuple[Digest, ...] | None
    lease: Lease

    @property
    def trees(self) -> tuple[Digest, ...]:
        """The trees of the artifacts."""
        return tuple(record.tree for record in self.records)


def find_conflicts(
    storage: StoreParts, names: Sequence[str], trees: Sequence[Digest], key: Digest
) -> list[Conflict]:
    """Return the conflicts of artifacts, given by IDs and trees, lowest first.

    `key` is their `composition_key`. Raises BadManifest, OSError.
    """
    by_tree = dict(zip(trees, names, strict=True))
    different = drop_repeated(trees)
    overlaps = storage.compositions.overlaps(key, len(different)) if len(different) > 1 else []
    if overlaps is None:
        manifests = [storage.layers.manifest(tree, to_compare=True) for tree in different]
        overlaps = find_overlaps(manifests)
        storage.compositions.store_overlaps(key, different, overlaps)
    if not overlaps:
        return []
    signatures = [recorded_signature(by_tree[tree]) for tree in different]
    return [
        Conflict(o.path, signatures[o.winner], tuple(signatures[n] for n in o.hidden), o.directory)
        for o in overlaps
    ]


def compose(
    storage: StoreParts,
    names: Iterable[str],
    *,
    conflicts: ConflictPolicy | None,
    allow: Sequence[str],
    purpose: str,
) -> Composition:
    """Compose the artifacts of IDs or abbreviations; see `Store.compose`."""
    merged_layers = MergedLayers(storage)
    requested = sort_by_priority(names)
    while True:
        leased = _find_and_lease(storage, requested, merged_layers, purpose)
        try:
            _refuse_lost(storage, requested, leased.records)
            trees, layers = leased.trees, leased.layers
            full_names = [record.name for record in leased.records]
            key = composition_key(full_names, trees)
            reported: tuple[Conflict, ...] = ()
            if conflicts is not None:
                all_conflicts = find_conflicts(storage, full_names, trees, key)
                reported = apply_policy(all_conflicts, conflicts, allow)
            if layers is None:
                merged_layers.make(drop_repeated(trees))
            elif merged_layers.recheck(layers, drop_repeated(trees)):
                _note_use(storage, full_names, key)
                ids, records, lease = leased.ids, leased.records, leased.lease
                return Composition(storage.path, ids, trees, layers, reported, lease, records)
        except BaseException:
            leased.lease.close()
            raise
        # Start anew: the lease does not include the merged layer that exists now.
        leased.lease.close()


def _find_and_lease(
    storage: StoreParts,
    requested: Sequence[PrioritizedName],
    merged_layers: MergedLayers,
    purpose: str,
) -> _LeasedArtifacts:
    """Find artifacts and lease them, and their merged layer if it exists.

    Raises NoSuchSignature, AmbiguousSignature, OSError.
    """
    with storage.index.read() as reader:
        records = resolve_records(reader, [name.name for name in requested], storage.path)
        trees = [record.tree for record in records]
        ids = tuple(
            with_priority(record.name, name.priority)
            for name, record in zip(requested, records, strict=True)
        )
        layers = merged_layers.find(drop_repeated(trees))
        # Under the lock of the index: `cas rm` and `cas gc` read the leases and delete records
        # under the exclusive lock, so they see this lease or the artifacts are not found here.
        used = {*trees, *(layers or ())}
        lease = Lease(storage.path, used, zip(ids, trees, strict=True), purpose)
    return _LeasedArtifacts(ids, tuple(records), layers, lease)


def _note_use(storage: StoreParts, names: Iterable[str], key: Digest) -> None:
    # One file that says so spares a look at each artifact when a composition is used repeatedly.
    if not storage.compositions.is_use_noted(key):
        artifact_links.note_uses(storage.fd, map(recorded_signature, names))
        storage.compositions.note_use(key)


def _refuse_lost(
    storage: StoreParts, requested: Sequence[PrioritizedName], records: Sequence[IndexRecord]
) -> None:
    """Recheck artifacts of earlier boots; raise NoSuchSignature if one was damaged, and removed."""
    this_boot = boot_id()
    lost = [
        name.name
        for name, record in zip(requested, records, strict=True)
        if not (record.is_safe or record.is_of_boot(this_boot))
        and recheck_after_reboot(storage, record.artifact()) is None
    ]
    if lost:
        raise NoSuchSignature(lost, quoted(storage.path))
