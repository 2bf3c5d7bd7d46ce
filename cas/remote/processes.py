"""Pulls and pushes in worker processes.

obstore hangs in a process that is forked from one that has used it, and blocks Ctrl-C during a
request. So only workers use it, which end with their work or with their parent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from cas.errors import InputRefused
from cas.model.artifact import Artifact
from cas.model.signature import Signature
from cas.remote import records
from cas.remote.object_keys import RECORDS, record_key, recorded_at
from cas.remote.object_store import ObjectStore, RemoteConfig
from cas.remote.pull import NOT_SIGNED, pull
from cas.remote.push import PushOptions, push
from cas.remote.requests import RequestPool
from cas.remote.results import Outcome, Pulled, Pushed
from cas.store import Store
from cas.system.progress import result_or_bytes
from cas.system.shared_queue import SharedQueue
from cas.system.workers import Worker, run_parallel

_Result = TypeVar("_Result")
_Work = Callable[[Store, ObjectStore, Sequence[Signature], Callable[[_Result | int], None]], None]
_MAX_WORKERS = 4
_UPLOAD_DIVISOR = 2
"""Uploads use a smaller share of `at_once`: a stalled upload is only noticed at its end."""
_ARTIFACT_OVERHEAD_BYTES = 1_000_000
"""An artifact takes as long as sending so many bytes, in addition to its own."""


def _ignore(size: int) -> None:
    """Ignore a number of bytes."""


def pull_from(
    store: Store,
    remote: RemoteConfig,
    keys: Collection[str],
    signatures: Iterable[Signature],
    on_result: Callable[[Pulled], None],
    on_bytes: Callable[[int], None] = _ignore,
) -> None:
    """Pull the artifacts that the store lacks.

    `on_result` is called with the result of each artifact, and `on_bytes` with numbers of further
    bytes. A missing or damaged artifact does not stop the others. If there are `keys`, records must
    be signed by one of them. Raises NoRemotes, RemoteFailed, InputRefused, CasError, OSError;
    artifacts stored before that are kept.
    """
    wanted = dict.fromkeys(signatures, 1)  # sizes are unknown yet
    with SharedQueue(wanted) as queue:
        work = partial(_pull_from_queue, queue, keys)
        _in_workers(store, remote, work, wanted, result_or_bytes(on_result, on_bytes))


def push_to(
    store: Store,
    remote: RemoteConfig,
    options: PushOptions,
    artifacts: Iterable[Artifact],
    on_result: Callable[[Pushed], None],
    on_bytes: Callable[[int], None] = _ignore,
) -> None:
    """Push artifacts of the store to a remote.

    `on_result` is called with the result of each artifact, and `on_bytes` with numbers of further
    bytes. A conflicting artifact does not stop the others. Raises NoRemotes, RemoteFailed,
    InputRefused, CasError, OSError; artifacts pushed before that stay there.
    """
    refuse_read_only(remote)
    sizes = {a.signature: a.size + _ARTIFACT_OVERHEAD_BYTES for a in artifacts}
    on_output = result_or_bytes(on_result, on_bytes)
    _in_workers(store, remote, partial(push, options=options), sizes, on_output, create=True)


def missing_in(
    remote: RemoteConfig, keys: Collection[str], signatures: Iterable[Signature]
) -> list[Pulled]:
    """Return results for the IDs that a pull would not find.

    Their outcome is `UNTRUSTED` or `MISSING`. Raises NoRemotes, RemoteFailed, InputRefused,
    OSError.
    """
    return Worker[Pulled](partial(_find_lacking, remote, keys, list(signatures))).all_results()


def recorded_in(remote: RemoteConfig) -> list[Signature]:
    """Return all IDs that have a record in a remote, sorted.

    Raises NoRemotes, RemoteFailed, InputRefused, OSError.
    """
    return sorted(Worker[Signature](partial(_list, remote)).all_results())


def refuse_read_only(remote: RemoteConfig) -> None:
    """Raise InputRefused if a remote is read-only."""
    if remote.is_read_only:
        raise InputRefused(
            f"{remote.url} is a read-only mirror",
            hint="push to the store behind it: s3://…, gs://…, az://… or file://…",
        )


def _in_workers(
    store: Store,
    remote: RemoteConfig,
    work: _Work[_Result],
    weights: Mapping[Signature, int],
    on_output: Callable[[_Result | int], None],
    *,
    create: bool = False,
) -> None:
    """Do `work` with IDs in workers; each has its share of the requests."""
    processors = len(os.sched_getaffinity(0))
    processes = max(min(processors, _MAX_WORKERS, len(weights), remote.jobs), 1)
    at_once = remote.at_once // processes // (_UPLOAD_DIVISOR if create else 1)
    part = remote._replace(jobs=remote.jobs // processes, at_once=at_once)
    run_parallel(
        partial(_do_part, store, part, work, create),
        weights,
        on_output,
        weight=weights.__getitem__,
        min_weight=0,
        always_fork=True,
        max_workers=processes,
    )


def _do_part(
    store: Store,
    remote: RemoteConfig,
    work: _Work[_Result],
    create: bool,
    signatures: Sequence[Signature],
    emit: Callable[[_Result | int], None],
) -> None:
    store.close()  # a forked process must open its own Store
    with Store(store.path) as own:
        work(own, ObjectStore(remote, create=create), signatures, emit)


def _pull_from_queue(
    queue: SharedQueue[Signature],
    keys: Collection[str],
    store: Store,
    bucket: ObjectStore,
    _: Sequence[Signature],
    emit: Callable[[Pulled | int], None],
) -> None:
    pull(store, bucket, queue, emit, keys=keys)


def _find_lacking(
    remote: RemoteConfig,
    keys: Collection[str],
    signatures: Sequence[Signature],
    emit: Callable[[Pulled], None],
) -> None:
    bucket = ObjectStore(remote)

    def look(signature: Signature) -> Pulled | None:
        data = bucket.get(record_key(signature), records.MAX_BYTES)
        with contextlib.suppress(records.BadRecord):
            if data is not None:
                trusted = records.decode(data, signature).is_trusted(keys)
                return None if trusted else Pulled(signature, Outcome.UNTRUSTED, why=NOT_SIGNED)
        return Pulled(signature, Outcome.MISSING)

    with RequestPool(bucket) as requests:
        for _, lacking in requests.ahead(look, signatures, remote.jobs):
            if lacking is not None:
                emit(lacking)


def _list(remote: RemoteConfig, emit: Callable[[Signature], None]) -> None:
    for key in ObjectStore(remote).keys(RECORDS):
        if (signature := recorded_at(key)) is not None:
            emit(signature)
