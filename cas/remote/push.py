"""Pushes artifacts: first the contents, then the tree file, and the record last."""

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
from cas.remote.object_keys import record_key, tree_key
from cas.remote.object_store import ObjectStore
from cas.remote.records import BadRecord, RemoteRecord
from cas.remote.requests import RequestPool
from cas.remote.results import Outcome, Pushed
from cas.remote.send import TreeUpload
from cas.remote.signing import SigningKey
from cas.remote.tree_file import BadTreeFile
from cas.store import Store

MAX_AGE_S = 7 * 86_400
"""Older objects are not relied on, but written again: a lifecycle rule may delete them soon."""
_WRITE_TRIES = 5
_MAX_CLOCK_SKEW_S = 300
"""The remote's clock may be ahead by this much."""


class PushOptions(NamedTuple):
    """Options of a push: sign with `key`; with `replace`, overwrite everything.

    A signed push also replaces another tree whose record is not signed by one of the public keys
    `trusted`, if there are any.
    """

    key: SigningKey | None = None
    replace: bool = False
    trusted: Collection[str] = ()


class _RemoteState(NamedTuple):
    """The state of an artifact in the remote.

    `record` is its record, or None if there is no valid one. `exists` is whether there is any
    object at its key, with the ETag `tag`. `fresh` is whether the record can be relied on, and
    `tree_fresh` whether the tree file and the objects that it names can.
    """

    record: records.SignedRecord | None
    exists: bool
    tag: str | None
    fresh: bool
    tree_fresh: bool

    def has_same_tree(self, artifact: Artifact) -> bool:
        """Return whether the record names the tree that the artifact has here."""
        return self.record is not None and self.record.record.tree == artifact.tree


class _Upload(NamedTuple):
    """An artifact with running uploads; `packs` are the packs for its tree file."""

    artifact: Artifact
    state: _RemoteState
    manifest: bytes
    packs: list[tuple[Digest, list[int]]]
    blobs: list[Future[int]]


def push(
    store: Store,
    bucket: ObjectStore,
    signatures: Sequence[Signature],
    emit: Callable[[Pushed | int], None],
    *,
    options: PushOptions,
) -> None:
    """Upload artifacts of the store to a remote.

    `emit` is called with the result of each artifact, and with numbers of further bytes. Contents
    are checked first. Raises RemoteFailed, OSError; artifacts pushed before that stay there.
    """
    with RequestPool(bucket) as requests:
        _PushJob(store, bucket, options, requests).run(signatures, emit)


class _PushJob:
    def __init__(
        self, store: Store, bucket: ObjectStore, options: PushOptions, requests: RequestPool
    ) -> None:
        self._store, self._bucket, self._options, self._requests = store, bucket, options, requests
        self._jobs = bucket.remote.jobs
        self._alone = threading.Lock()  # for tree files, which can take much memory

    def run(self, signatures: Sequence[Signature], emit: Callable[[Pushed | int], None]) -> None:
        """Push all; a record is written after everything that it needs."""
        uploads: deque[_Upload] = deque()
        ending: deque[Future[Pushed]] = deque()
        artifacts = self._stored(signatures, emit)
        for artifact, state in self._requests.ahead(self._look_up, artifacts, self._jobs):
            if (result := self._result_without_upload(artifact, state)) is not None:
                emit(result)
                continue
            try:
                uploads.append(self._begin(artifact, state, emit))
            except NoSuchSignature:
                emit(_gone(artifact.signature))
            except StoreDamaged as error:
                emit(Pushed(artifact.signature, Outcome.DAMAGED, why=error.message))
            if len(uploads) > self._jobs:
                ending.append(self._end(uploads.popleft()))
            while ending and ending[0].done():
                emit(ending.popleft().result())
        ending += map(self._end, uploads)
        for future in ending:
            emit(self._requests.result(future))

    def _stored(
        self, signatures: Iterable[Signature], emit: Callable[[Pushed | int], None]
    ) -> Iterator[Artifact]:
        """Yield the artifacts that are still in the store."""
        for signature in signatures:
            if (artifact := self._store.find(signature)) is None:
                emit(_gone(signature))
            else:
                yield artifact

    def _look_up(self, artifact: Artifact) -> _RemoteState:
        """Return the state of an artifact in the remote."""
        key, tree = record_key(artifact.signature), tree_key(artifact.tree)
        (data, tag), record = self._bucket.look(key, records.MAX_BYTES), None
        if data is not None:
            with contextlib.suppress(BadRecord):
                record = records.decode(data, artifact.signature)
        fresh = record is not None and self._is_fresh(key)
        state = _RemoteState(record, data is not None, tag, fresh, self._is_fresh(tree))
        if state.tree_fresh and not state.has_same_tree(artifact):
            # No record vouches for the tree file yet, so it is read.
            good = False
            with contextlib.suppress(BadTreeFile):
                good = tree_file.read(self._bucket, artifact.tree, self._alone)[0] is not None
            return state._replace(tree_fresh=good)
        return state

    def _is_fresh(self, key: str) -> bool:
        """Return whether the object at `key` is recent enough to rely on; never with `replace`."""
        if self._options.replace:
            return False
        written_s = self._bucket.written_s(key)
        return written_s is not None and -_MAX_CLOCK_SKEW_S < time.time() - written_s < MAX_AGE_S

    def _result_without_upload(self, artifact: Artifact, state: _RemoteState) -> Pushed | None:
        """Return the result of an artifact that needs no upload, else None."""
        signed, options = state.record, self._options
        if signed is None:
            return None
        if state.has_same_tree(artifact):
            has_our_mark = options.key is None or signed.is_signed_by({options.key.public})
            known = state.fresh and state.tree_fresh and has_our_mark
            return Pushed(artifact.signature, Outcome.KNOWN) if known else None
        is_untrusted = options.key is not None and not signed.is_trusted(options.trusted)
        return None if options.replace or is_untrusted else _conflict(artifact, signed.record)

    def _begin(
        self, artifact: Artifact, state: _RemoteState, on_bytes: Callable[[int], None]
    ) -> _Upload:
        """Start the uploads of the contents of an artifact, unless the remote has them."""
        if state.tree_fresh:
            return _Upload(artifact, state, b"", [], [])
        names = [str(artifact.signature)]
        purpose = f"push of {names[0]}"
        with self._store.compose(names, conflicts=None, purpose=purpose, counted=False):
            manifest = self._store.manifest(artifact)
            upload = TreeUpload(self._bucket, self._requests, self._is_fresh, on_bytes)
            upload.send(manifest, self._store.layer_path(artifact))
        return _Upload(artifact, state, manifest.encode(), upload.packs, upload.blobs)

    def _end(self, upload: _Upload) -> Future[Pushed]:
        """Start writing the tree file and the record after all contents of an artifact."""
        sent = sum(map(self._requests.result, upload.blobs))
        return self._requests.begin(partial(self._finish, upload, sent))

    def _finish(self, upload: _Upload, sent: int) -> Pushed:
        artifact = upload.artifact
        if upload.manifest:
            data = tree_file.encode(upload.manifest, upload.packs)
            self._bucket.put(tree_key(artifact.tree), data)
            sent += len(data)
        return self._write_record(artifact, upload.state)._replace(sent=sent)

    def _write_record(self, artifact: Artifact, state: _RemoteState) -> Pushed:
        """Write the record of an artifact, unless another process has written it meanwhile.

        The look-up before the uploads is too old to overwrite an existing record.
        """
        for attempt in range(_WRITE_TRIES):
            if attempt > 0 or state.exists:
                state = self._look_up(artifact)
                if (result := self._result_without_upload(artifact, state)) is not None:
                    return result
            if self._write(record_key(artifact.signature), self._record(artifact, state), state):
                why = self._replaced_tree(artifact, state)
                return Pushed(artifact.signature, Outcome.PUSHED, why=why)
        why = "other processes keep writing its record"
        return Pushed(artifact.signature, Outcome.CONFLICT, why=why)

    def _write(self, key: str, data: bytes, state: _RemoteState) -> bool:
        """Write a record over the given state; return whether it is in the remote now."""
        if not state.exists:
            return self._bucket.create(key, data)
        written = self._bucket.replace(key, data, state.tag)
        return written and self._bucket.get(key, records.MAX_BYTES) == data

    def _replaced_tree(self, artifact: Artifact, state: _RemoteState) -> str:
        """Return a note about the untrusted record that a push replaced, or an empty text."""
        if state.record is None or state.has_same_tree(artifact) or self._options.replace:
            return ""
        return f"replaced tree {state.record.record.tree}, which no trusted key has signed"

    def _record(self, artifact: Artifact, state: _RemoteState) -> bytes:
        """Return the record to write: an existing one of the same tree with our signature added."""
        if state.record is not None and state.has_same_tree(artifact):
            return records.add_signature(state.record, self._options.key)
        record = RemoteRecord(
            str(artifact.signature), artifact.tree, [*artifact.dropped], time.time_ns()
        )
        return records.encode(record, self._options.key)


def _gone(signature: Signature) -> Pushed:
    return Pushed(signature, Outcome.MISSING, why="it is not in the store any more")


def _conflict(artifact: Artifact, record: RemoteRecord) -> Pushed:
    why = f"the remote has tree {record.tree}, the store has {artifact.tree}"
    return Pushed(artifact.signature, Outcome.CONFLICT, why=why)
