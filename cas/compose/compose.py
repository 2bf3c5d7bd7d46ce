"""Composes artifacts, safely beside concurrent changes of the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    found = [recorded_signature(by_tree[tree]) for tree in different]
    return [
        Conflict(o.path, found[o.winner], tuple(found[n] for n in o.hidden), o.directory)
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
    wanted = sort_by_priority(names)
    noted: bool | None = None
    while True:
        with storage.index.read() as reader:
            records = resolve_records(reader, [w.name for w in wanted], storage.path)
            trees = tuple(record.tree for record in records)
            ids = tuple(
                with_priority(record.name, w.priority)
                for w, record in zip(wanted, records, strict=True)
            )
            different = drop_repeated(trees)
            layers = merged_layers.layers(different)
            # Within the lock: no artifact can be removed between its lookup and its lease.
            used = {*trees, *(layers or ())}
            lease = Lease(storage.path, used, zip(ids, trees, strict=True), purpose)
        try:
            _check(storage, wanted, records)
            names = [record.name for record in records]
            key = composition_key(names, trees)
            if noted is None:
                noted = storage.compositions.is_use_noted(key)
            reported: tuple[Conflict, ...] = ()
            if conflicts is not None:
                found = find_conflicts(storage, names, trees, key)
                reported = apply_policy(found, conflicts, allow)
            if layers is None:
                merged_layers.make(different)
            elif merged_layers.recheck(layers, different):
                if not noted:
                    artifact_links.note_uses(storage.fd, map(recorded_signature, names))
                    storage.compositions.note_use(key)
                return Composition(
                    storage.path, ids, trees, layers, reported, lease, tuple(records)
                )
        except BaseException:
            lease.close()
            raise
        lease.close()


def _check(
    storage: StoreParts, wanted: Sequence[PrioritizedName], records: Sequence[IndexRecord]
) -> None:
    """Recheck artifacts of earlier boots. Raises NoSuchSignature if one is damaged."""
    this_boot = boot_id()
    doubtful = [
        (w.name, record)
        for w, record in zip(wanted, records, strict=True)
        if not (record.is_safe or record.is_of_boot(this_boot))
    ]
    lost = [
        name
        for name, record in doubtful
        if recheck_after_reboot(storage, record.artifact()) is None
    ]
    if lost:
        raise NoSuchSignature(lost, quoted(storage.path))
