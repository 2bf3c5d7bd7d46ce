"""Pulls artifacts: missing parts are downloaded and checked before they become visible."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter

from cas.model.artifact import Artifact
from cas.model.signature import Signature
from cas.put.put import SignatureConflict
from cas.remote import records, tree_file
from cas.remote.fetch import (
    Download,
    Fetched,
    MissingParts,
    NotAvailable,
    TreeDownload,
    find_missing,
)
from cas.remote.object_keys import record_key
from cas.remote.object_store import ObjectStore
from cas.remote.records import RemoteRecord
from cas.remote.requests import RequestPool
from cas.remote.results import Outcome, Pulled
from cas.remote.tree_file import TreeFile
from cas.store import Store

NOT_SIGNED = "its record is not signed by a trusted key"


class _Plan:
    """The record and tree file of an artifact, and its missing parts; or the error."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.error: NotAvailable | None = None
        self.fetched = 0
        self.record: RemoteRecord | None = None
        self.tree: TreeFile | None = None
        self.need: MissingParts | None = None

    @property
    def blobs(self) -> Sequence[Download]:
        """The downloads, in order."""
        return () if self.need is None else self.need.blobs


def pull(
    store: Store,
    bucket: ObjectStore,
    signatures: Iterable[Signature],
    emit: Callable[[Pulled | int], None],
    *,
    keys: Collection[str],
) -> None:
    """Download and store the artifacts that the store lacks.

    `emit` is called with the result of each artifact, and with numbers of further bytes. If there
    are `keys`, records must be signed by one of them. Raises RemoteFailed, CasError, OSError;
    artifacts stored before that are kept.
    """
    with RequestPool(bucket) as requests:
        _PullJob(store, bucket, keys, requests).run(signatures, emit)


class _PullJob:
    def __init__(
        self, store: Store, bucket: ObjectStore, keys: Collection[str], requests: RequestPool
    ) -> None:
        self._store, self._bucket, self._keys, self._requests = store, bucket, keys, requests
        self._jobs = bucket.remote.jobs
        self._alone = threading.Lock()  # for tree files, which can take much memory

    def run(self, signatures: Iterable[Signature], emit: Callable[[Pulled | int], None]) -> None:
        """Pull all; later artifacts are downloaded while one is stored."""
        wanted = self._unknown(signatures, emit)
        self._store.objects.note_boot()  # once, before the threads would
        plans = (plan for _, plan in self._requests.ahead(self._plan, wanted, self._jobs))
        parts = ((plan, blob) for plan in plans for blob in (None, *plan.blobs))
        fetched = self._requests.ahead(
            lambda part: self._fetch(part[1]),
            parts,
            self._jobs,
            size=lambda part: part[1].length if part[1] else 0,
        )
        for plan, group in itertools.groupby(fetched, key=lambda item: item[0][0]):
            downloads = ((blob, data) for (_, blob), data in group if blob)
            emit(self._store_artifact(plan, _counted(downloads, emit)))

    def _unknown(
        self, signatures: Iterable[Signature], emit: Callable[[Pulled | int], None]
    ) -> Iterator[Signature]:
        """Yield the IDs that the store lacks; emit results for the others."""
        for signature in signatures:
            known = self._store.find(signature)
            if known is None:
                yield signature
            else:
                emit(Pulled(signature, Outcome.KNOWN, known))

    def _plan(self, signature: Signature) -> _Plan:
        """Download the record and tree file of an artifact; retry once if they are damaged."""
        for _ in range(2):
            plan = _Plan(signature)
            try:
                self._read_plan(plan)
            except (records.BadRecord, tree_file.BadTreeFile) as error:
                file = "record" if isinstance(error, records.BadRecord) else "tree file"
                plan.error = NotAvailable(Outcome.DAMAGED, f"its {file} is corrupt: {error}")
                continue
            except NotAvailable as error:
                plan.error = error
            break
        return plan

    def _read_plan(self, plan: _Plan) -> None:
        data = self._bucket.get(record_key(plan.signature), records.MAX_BYTES)
        if data is None:
            raise NotAvailable(Outcome.MISSING)
        signed = records.decode(data, plan.signature)
        if not signed.is_trusted(self._keys):
            raise NotAvailable(Outcome.UNTRUSTED, NOT_SIGNED)
        plan.record = signed.record
        plan.tree, size = tree_file.read(self._bucket, plan.record.tree, self._alone)
        if plan.tree is None:
            raise NotAvailable(Outcome.MISSING)
        plan.fetched = len(data) + size
        plan.need = find_missing(plan.tree, self._store.objects)

    def _fetch(self, blob: Download | None) -> bytes | None:
        if blob is None:
            return None
        if blob.whole:  # zstd makes incompressible data a little larger
            return self._bucket.get(blob.key, blob.length + blob.length // 128 + 1024)
        return self._bucket.get_range(blob.key, blob.start, blob.length)

    def _store_artifact(self, plan: _Plan, downloads: Iterator[Fetched]) -> Pulled:
        """Store an artifact from its downloads; download again if they are damaged."""
        if plan.record is None or plan.tree is None or plan.need is None:
            error = plan.error or NotAvailable(Outcome.MISSING)
            return Pulled(plan.signature, error.outcome, why=error.why)
        again = partial(self._again, plan.tree)
        download = TreeDownload(plan.tree, plan.record.dropped, (plan.need, downloads), again)
        signature, new_bytes = plan.signature, 0
        artifact: Artifact | None
        for attempt in range(2):
            why = ""
            try:
                origin = self._bucket.remote.url
                done = self._store.receive(signature, download.source, origin)
                artifact, new_bytes = done.artifact, done.new_bytes
                outcome = Outcome.PULLED
            except SignatureConflict:  # another process has just stored it
                artifact, outcome = self._store.find(signature), Outcome.KNOWN
            except NotAvailable as error:
                artifact, outcome, why = None, error.outcome, error.why
                if outcome is Outcome.DAMAGED and attempt == 0:
                    continue
            break
        fetched = plan.fetched + download.fetched
        return Pulled(signature, outcome, artifact, fetched, new_bytes, why)

    def _again(self, tree: TreeFile) -> tuple[MissingParts, Iterator[Fetched]]:
        """Start fresh downloads of the parts that are missing now."""
        need = find_missing(tree, self._store.objects)
        size = attrgetter("length")
        return need, self._requests.ahead(self._fetch, need.blobs, self._jobs, size=size)


def _counted(downloads: Iterator[Fetched], emit: Callable[[int], None]) -> Iterator[Fetched]:
    """Yield downloads, and emit their sizes."""
    for blob, data in downloads:
        if data is not None:
            emit(len(data))
        yield blob, data
