"""Pulling artifacts: what is not here comes from a remote, and is checked before it is visible."""

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
from cas.remote.bucket import ObjectStore
from cas.remote.fetch import Download, Fetched, MissingParts, NotAvailable, TreeDownload, needed
from cas.remote.object_keys import record_key
from cas.remote.records import RemoteRecord
from cas.remote.requests import RequestPool
from cas.remote.results import Outcome, Pulled
from cas.remote.tree_file import TreeFile
from cas.store import Store

NOT_SIGNED = "its record is not signed by a trusted key"


class _Plan:
    """What the remote says of an artifact, and what is to be fetched of it; or what is wrong."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.wrong: NotAvailable | None = None
        self.fetched = 0
        self.record: RemoteRecord | None = None
        self.tree: TreeFile | None = None
        self.need: MissingParts | None = None

    @property
    def blobs(self) -> Sequence[Download]:
        """What is to be fetched, in this order."""
        return () if self.need is None else self.need.blobs


def pull(
    store: Store,
    bucket: ObjectStore,
    signatures: Iterable[Signature],
    give: Callable[[Pulled | int], None],
    *,
    keys: Collection[str],
) -> None:
    """Store artifacts that are in a remote and not here; `give` gets what became of each.

    It also gets how many more bytes have come.

    Records have to be signed by one of `keys`, if there are any. Raises RemoteFailed, CasError,
    OSError; what was stored before that stays.
    """
    with RequestPool(bucket) as requests:
        _PullJob(store, bucket, keys, requests).run(signatures, give)


class _PullJob:
    def __init__(
        self, store: Store, bucket: ObjectStore, keys: Collection[str], requests: RequestPool
    ) -> None:
        self._store, self._bucket, self._keys, self._requests = store, bucket, keys, requests
        self._jobs = bucket.remote.jobs
        self._alone = threading.Lock()  # for tree files, which may take much memory

    def run(self, signatures: Iterable[Signature], give: Callable[[Pulled | int], None]) -> None:
        """Pull, with requests for later artifacts under way while one is stored."""
        wanted = self._unknown(signatures, give)
        self._store.objects.note_boot()  # before there are threads to do it
        plans = (plan for _, plan in self._requests.ahead(self._plan, wanted, self._jobs))
        parts = ((plan, blob) for plan in plans for blob in (None, *plan.blobs))
        fetched = self._requests.ahead(
            lambda part: self._fetch(part[1]),
            parts,
            self._jobs,
            size=lambda part: part[1].length if part[1] else 0,
        )
        for plan, group in itertools.groupby(fetched, key=lambda one: one[0][0]):
            give(self._take(plan, _told(((blob, data) for (_, blob), data in group if blob), give)))

    def _unknown(
        self, signatures: Iterable[Signature], give: Callable[[Pulled | int], None]
    ) -> Iterator[Signature]:
        """Yield those of which no artifact is here."""
        for signature in signatures:
            known = self._store.find(signature)
            if known is None:
                yield signature
            else:
                give(Pulled(signature, Outcome.KNOWN, known))

    def _plan(self, signature: Signature) -> _Plan:
        """Ask for an artifact's record and tree file, once more if they are damaged."""
        for _ in range(2):
            plan = _Plan(signature)
            try:
                self._ask(plan)
            except (records.BadRecord, tree_file.BadTreeFile) as error:
                what = "record" if isinstance(error, records.BadRecord) else "tree file"
                plan.wrong = NotAvailable(Outcome.DAMAGED, f"its {what} is corrupt: {error}")
                continue
            except NotAvailable as error:
                plan.wrong = error
            break
        return plan

    def _ask(self, plan: _Plan) -> None:
        data = self._bucket.get(record_key(plan.signature), records.LARGEST)
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
        plan.need = needed(plan.tree, self._store.objects)

    def _fetch(self, blob: Download | None) -> bytes | None:
        if blob is None:
            return None
        if blob.whole:  # what cannot be compressed is a little longer with zstd
            return self._bucket.get(blob.key, blob.length + blob.length // 128 + 1024)
        return self._bucket.get_range(blob.key, blob.start, blob.length)

    def _take(self, plan: _Plan, group: Iterator[Fetched]) -> Pulled:
        """Store an artifact of what was fetched of it; fetch it anew if that was damaged."""
        if plan.record is None or plan.tree is None or plan.need is None:
            wrong = plan.wrong or NotAvailable(Outcome.MISSING)
            return Pulled(plan.signature, wrong.outcome, why=wrong.why)
        again = partial(self._again, plan.tree)
        taking = TreeDownload(plan.tree, plan.record.dropped, (plan.need, group), again)
        signature, new_bytes = plan.signature, 0
        artifact: Artifact | None
        for attempt in range(2):
            why = ""
            try:
                origin = self._bucket.remote.url
                done = self._store.receive(signature, taking.source, origin)
                artifact, new_bytes = done.artifact, done.new_bytes
                outcome = Outcome.PULLED
            except SignatureConflict:  # another process has just stored it
                artifact, outcome = self._store.find(signature), Outcome.KNOWN
            except NotAvailable as error:
                artifact, outcome, why = None, error.outcome, error.why
                if outcome is Outcome.DAMAGED and attempt == 0:
                    continue
            break
        fetched = plan.fetched + taking.fetched
        return Pulled(signature, outcome, artifact, fetched, new_bytes, why)

    def _again(self, tree: TreeFile) -> tuple[MissingParts, Iterator[Fetched]]:
        """Fetch what is needed now."""
        need = needed(tree, self._store.objects)
        size = attrgetter("length")
        return need, self._requests.ahead(self._fetch, need.blobs, self._jobs, size=size)


def _told(fetched: Iterator[Fetched], give: Callable[[int], None]) -> Iterator[Fetched]:
    """Yield what was fetched, and give how many bytes that was."""
    for blob, data in fetched:
        if data is not None:
            give(len(data))
        yield blob, data
