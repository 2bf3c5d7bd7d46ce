"""Pushing artifacts: a remote gets the contents first, then the tree, and the record last."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from cas.errors import StoreDamaged
from cas.model.artifact import Artifact
from cas.model.manifest import Digest
from cas.model.signature import NoSuchSignature, Signature
from cas.remote import records, tree_file
from cas.remote.bucket import ObjectStore
from cas.remote.object_keys import record_key, tree_key
from cas.remote.records import BadRecord, RemoteRecord
from cas.remote.requests import RequestPool
from cas.remote.results import Outcome, Pushed
from cas.remote.send import TreeUpload
from cas.remote.signing import SigningKey
from cas.remote.tree_file import BadTreeFile
from cas.store import Store

RENEWED_S = 7 * 86_400
"""What is in the remote for longer (seconds) is not relied upon, and written anew."""
_TRIES = 5
_AHEAD_S = 300
"""How far (seconds) a remote's clock may be ahead of this one's."""


class PushOptions(NamedTuple):
    """How to push: signed by `key`, and with `replace` over whatever is there.

    What is signed goes over another tree too, if that is not signed by one of the public keys
    `trusted`, if there are any.
    """

    key: SigningKey | None = None
    replace: bool = False
    trusted: Collection[str] = ()


class _Found(NamedTuple):
    """What the remote has of an artifact.

    `record` is that of its signature, if it makes sense; `anything` whether there is something at
    its place, with a `tag`. `fresh` is whether the record can be relied upon, and `tree_fresh`
    whether the tree's file can, and with it what that names.
    """

    record: records.SignedRecord | None
    anything: bool
    tag: str | None
    fresh: bool
    tree_fresh: bool

    def means(self, artifact: Artifact) -> bool:
        """Tell whether the record says that the artifact is the tree that it is here."""
        return self.record is not None and self.record.record.tree == artifact.tree


class _Open(NamedTuple):
    """An artifact of which blobs are under way; `packs` is what its tree file has to say."""

    artifact: Artifact
    found: _Found
    manifest: bytes
    packs: list[tuple[Digest, list[int]]]
    blobs: list[Future[int]]


def push(
    store: Store,
    bucket: ObjectStore,
    signatures: Sequence[Signature],
    give: Callable[[Pushed | int], None],
    *,
    terms: PushOptions,
) -> None:
    """Write artifacts of the store to a remote; `give` gets what became of each.

    It also gets how many more bytes go out.

    Contents are checked before. Raises RemoteFailed, OSError; what was pushed before that stays.
    """
    with RequestPool(bucket) as requests:
        _PushJob(store, bucket, terms, requests).run(signatures, give)


class _PushJob:
    def __init__(
        self, store: Store, bucket: ObjectStore, terms: PushOptions, requests: RequestPool
    ) -> None:
        self._store, self._bucket, self._terms, self._requests = store, bucket, terms, requests
        self._jobs = bucket.remote.jobs
        self._alone = threading.Lock()  # for tree files, which may take much memory

    def run(self, signatures: Sequence[Signature], give: Callable[[Pushed | int], None]) -> None:
        """Push, each artifact's record when all that it needs is there."""
        opened: deque[_Open] = deque()
        ending: deque[Future[Pushed]] = deque()
        artifacts = self._stored(signatures, give)
        for artifact, found in self._requests.ahead(self._find, artifacts, self._jobs):
            if (done := self._done(artifact, found)) is not None:
                give(done)
                continue
            try:
                opened.append(self._begin(artifact, found, give))
            except NoSuchSignature:
                give(_gone(artifact.signature))
            except StoreDamaged as error:
                give(Pushed(artifact.signature, Outcome.DAMAGED, why=error.message))
            if len(opened) > self._jobs:
                ending.append(self._end(opened.popleft()))
            while ending and ending[0].done():
                give(ending.popleft().result())
        ending += map(self._end, opened)
        for future in ending:
            give(self._requests.result(future))

    def _stored(
        self, signatures: Iterable[Signature], give: Callable[[Pushed | int], None]
    ) -> Iterator[Artifact]:
        """Yield the artifacts that are still in the store."""
        for signature in signatures:
            if (artifact := self._store.find(signature)) is None:
                give(_gone(signature))
            else:
                yield artifact

    def _find(self, artifact: Artifact) -> _Found:
        """Ask what is there."""
        key, tree = record_key(artifact.signature), tree_key(artifact.tree)
        (data, tag), record = self._bucket.look(key, records.LARGEST), None
        if data is not None:
            with contextlib.suppress(BadRecord):
                record = records.decode(data, artifact.signature)
        fresh = record is not None and self._is_fresh(key)
        there = _Found(record, data is not None, tag, fresh, self._is_fresh(tree))
        if there.tree_fresh and not there.means(artifact):  # nobody has said yet that it is good
            good = False
            with contextlib.suppress(BadTreeFile):
                good = tree_file.read(self._bucket, artifact.tree, self._alone)[0] is not None
            return there._replace(tree_fresh=good)
        return there

    def _is_fresh(self, key: str) -> bool:
        """Tell whether something is at a key for so short that it will be there for long.

        Nothing is, for who writes all anew.
        """
        if self._terms.replace:
            return False
        written_s = self._bucket.written_s(key)
        return written_s is not None and -_AHEAD_S < time.time() - written_s < RENEWED_S

    def _done(self, artifact: Artifact, found: _Found) -> Pushed | None:
        """Return what became of an artifact of which nothing has to be written."""
        there, terms = found.record, self._terms
        if there is None:
            return None
        if found.means(artifact):
            signed = terms.key is None or there.is_signed_by({terms.key.public})
            known = found.fresh and found.tree_fresh and signed
            return Pushed(artifact.signature, Outcome.KNOWN) if known else None
        forged = terms.key is not None and not there.is_trusted(terms.trusted)
        return None if terms.replace or forged else _conflict(artifact, there.record)

    def _begin(self, artifact: Artifact, found: _Found, tell: Callable[[int], None]) -> _Open:
        """Begin to write the contents of an artifact, unless they are there."""
        if found.tree_fresh:
            return _Open(artifact, found, b"", [], [])
        names = [str(artifact.signature)]
        purpose = f"push of {names[0]}"
        with self._store.compose(names, conflicts=None, purpose=purpose, counted=False):
            manifest = self._store.manifest(artifact)
            sending = TreeUpload(self._bucket, self._requests, self._is_fresh, tell)
            sending.send(manifest, self._store.layer_path(artifact))
        return _Open(artifact, found, manifest.encode(), sending.packs, sending.blobs)

    def _end(self, one: _Open) -> Future[Pushed]:
        """Write tree file and record, when all contents of an artifact are written."""
        sent = sum(map(self._requests.result, one.blobs))
        return self._requests.begin(partial(self._finish, one, sent))

    def _finish(self, one: _Open, sent: int) -> Pushed:
        artifact, found = one.artifact, one.found
        if one.manifest:
            data = tree_file.encode(one.manifest, one.packs)
            self._bucket.put(tree_key(artifact.tree), data)
            sent += len(data)
        return self._write_record(artifact, found)._replace(sent=sent)

    def _write_record(self, artifact: Artifact, found: _Found) -> Pushed:
        """Write an artifact's record, unless somebody has written it meanwhile.

        To have looked before the contents were sent is too long ago to write over something.
        """
        for attempt in range(_TRIES):
            if attempt > 0 or found.anything:
                found = self._find(artifact)
                if (done := self._done(artifact, found)) is not None:
                    return done
            if self._write(record_key(artifact.signature), self._record(artifact, found), found):
                return Pushed(artifact.signature, Outcome.PUSHED, why=self._why(artifact, found))
        return Pushed(artifact.signature, Outcome.CONFLICT, why="others write its record, too")

    def _write(self, key: str, data: bytes, found: _Found) -> bool:
        """Write a record where that was found; tell whether it is there."""
        if not found.anything:
            return self._bucket.create(key, data)
        written = self._bucket.replace(key, data, found.tag)
        return written and self._bucket.get(key, records.LARGEST) == data

    def _why(self, artifact: Artifact, found: _Found) -> str:
        """Say what a record has taken the place of, unless that was asked for."""
        if found.record is None or found.means(artifact) or self._terms.replace:
            return ""
        return f"it was tree {found.record.record.tree}, signed by nobody who is trusted here"

    def _record(self, artifact: Artifact, found: _Found) -> bytes:
        """Return the record to write: what is there, if it means the same, with our signature."""
        if found.record is not None and found.means(artifact):
            return records.signed_too(found.record, self._terms.key)
        record = RemoteRecord(
            str(artifact.signature), artifact.tree, [*artifact.dropped], time.time_ns()
        )
        return records.encode(record, self._terms.key)


def _gone(signature: Signature) -> Pushed:
    return Pushed(signature, Outcome.MISSING, why="it is not in the store any more")


def _conflict(artifact: Artifact, record: RemoteRecord) -> Pushed:
    why = f"there it is tree {record.tree}, here {artifact.tree}"
    return Pushed(artifact.signature, Outcome.CONFLICT, why=why)
