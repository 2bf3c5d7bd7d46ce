"""Composing artifacts, whatever else happens to the store meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cas import links
from cas.artifact import Record, recorded_signature
from cas.boot import boot_id
from cas.compose import Wanted, distinct, in_order, with_priority
from cas.composition import Composition, find_conflicts
from cas.conflicts import Conflict, ConflictPolicy, judge
from cas.known import Known, composition_key
from cas.leases import Lease
from cas.merged import Merging
from cas.quoting import quoted
from cas.resolve import resolve_records
from cas.signature import NoSuchSignature
from cas.storage import Storage
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
    noted: bool | None = None
    while True:
        with storage.index.read() as reader:
            records = resolve_records(reader, [w.name for w in wanted], storage.path)
            trees = tuple(record.tree for record in records)
            ids = tuple(
                with_priority(record.name, w.priority)
                for w, record in zip(wanted, records, strict=True)
            )
            different = distinct(trees)
            layers = merging.layers(different)
            # Under the lock: nobody removes what was found before it is said to be in use.
            used = {*trees, *(layers or ())}
            lease = Lease(storage.path, used, zip(ids, trees, strict=True), purpose)
        try:
            _check(storage, wanted, records)
            names = [record.name for record in records]
            key = composition_key(names, trees)
            if noted is None:
                noted = known.is_noted(key)
            told: tuple[Conflict, ...] = ()
            if conflicts is not None:
                found = find_conflicts(names, trees, key, storage.layers, known)
                told = judge(found, conflicts, allow)
            if layers is None:
                merging.make(different)
            elif merging.trust(layers, different):
                if not noted:
                    links.note_use(storage.fd, map(recorded_signature, names))
                    known.note_use(key)
                return Composition(storage.path, ids, trees, layers, told, lease, tuple(records))
        except BaseException:
            lease.close()
            raise
        lease.close()


def _check(storage: Storage, wanted: Sequence[Wanted], records: Sequence[Record]) -> None:
    """Make sure that artifacts can be trusted. Raises NoSuchSignature."""
    this_boot = boot_id()
    doubtful = [
        (w.name, record)
        for w, record in zip(wanted, records, strict=True)
        if not (record.is_safe or record.is_of_boot(this_boot))
    ]
    lost = [name for name, record in doubtful if trusted(storage, record.artifact()) is None]
    if lost:
        raise NoSuchSignature(lost, quoted(storage.path))
