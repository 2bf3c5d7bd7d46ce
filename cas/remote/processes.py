"""Pulls and pushes, by processes of their own.

obstore hangs in a process that was forked from one that has used it, and it does not let Ctrl-C
through while a request lasts. So nobody uses it but processes that were forked for that, which end
with what they do, or when who made them does.
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
from cas.remote.bucket import ObjectStore, RemoteConfig
from cas.remote.object_keys import RECORDS, record_key, recorded_at
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
_MOST_PROCESSES = 4
_SENDING = 2
"""So much less is sent at once: whether anything moves is not seen before a request has ended."""
_COST_OF_AN_ARTIFACT = 1_000_000
"""How many bytes are sent in the time that an artifact takes besides."""


def _nothing(size: int) -> None:
    """Take a number of bytes that nobody wants to know."""


def pull_from(
    store: Store,
    remote: RemoteConfig,
    keys: Collection[str],
    signatures: Iterable[Signature],
    take: Callable[[Pulled], None],
    moved: Callable[[int], None] = _nothing,
) -> None:
    """Store artifacts that are in a remote and not here; `take` gets what became of each.

    `moved` gets how many more bytes have come, now and then.

    One that is missing there, or damaged, does not keep others from being stored. Records have to
    be signed by one of `keys`, if there are any. Raises NoRemotes, RemoteFailed, InputRefused,
    CasError, OSError; what was stored before that stays.
    """
    wanted = dict.fromkeys(signatures, 1)  # how large they are is not known yet
    with SharedQueue(wanted) as turns:
        work = partial(_pull_in_turn, turns, keys)
        _spread(store, remote, work, wanted, result_or_bytes(take, moved))


def push_to(
    store: Store,
    remote: RemoteConfig,
    terms: PushOptions,
    artifacts: Iterable[Artifact],
    take: Callable[[Pushed], None],
    moved: Callable[[int], None] = _nothing,
) -> None:
    """Write artifacts of the store to a remote; `take` gets what became of each.

    `moved` gets how many more bytes go out, now and then.

    One that is there with another tree does not keep others from being pushed. Raises NoRemotes,
    RemoteFailed, InputRefused, CasError, OSError; what was pushed before that stays.
    """
    refuse_read_only(remote)
    sizes = {one.signature: one.size + _COST_OF_AN_ARTIFACT for one in artifacts}
    _spread(
        store, remote, partial(push, terms=terms), sizes, result_or_bytes(take, moved), create=True
    )


def missing_in(
    remote: RemoteConfig, keys: Collection[str], signatures: Iterable[Signature]
) -> list[Pulled]:
    """Return those of some signatures that a pull would not find a record of.

    That is `UNTRUSTED`, or `MISSING`. Raises NoRemotes, RemoteFailed, InputRefused, OSError.
    """
    return Worker[Pulled](partial(_ask, remote, keys, list(signatures))).all_results()


def recorded_in(remote: RemoteConfig) -> list[Signature]:
    """Return all signatures that have a record in a remote, in their order.

    Raises NoRemotes, RemoteFailed, InputRefused, OSError.
    """
    return sorted(Worker[Signature](partial(_list, remote)).all_results())


def refuse_read_only(remote: RemoteConfig) -> None:
    """Raise InputRefused if nothing can be written to a remote."""
    if remote.is_read_only:
        raise InputRefused(
            f"{remote.url} is a mirror, which can only be read",
            hint="push to the store that it mirrors, by s3://…, gs://…, az://… or file://…",
        )


def _spread(
    store: Store,
    remote: RemoteConfig,
    work: _Work[_Result],
    weights: Mapping[Signature, int],
    take: Callable[[_Result | int], None],
    *,
    create: bool = False,
) -> None:
    """Let processes do `work` with signatures; each has its part of the requests."""
    processors = len(os.sched_getaffinity(0))
    processes = max(min(processors, _MOST_PROCESSES, len(weights), remote.jobs), 1)
    at_once = remote.at_once // processes // (_SENDING if create else 1)
    part = remote._replace(jobs=remote.jobs // processes, at_once=at_once)
    run_parallel(
        partial(_do_part, store, part, work, create),
        weights,
        take,
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
    give: Callable[[_Result | int], None],
) -> None:
    store.close()  # a process that was forked opens its own
    with Store(store.path) as own:
        work(own, ObjectStore(remote, create=create), signatures, give)


def _pull_in_turn(
    turns: SharedQueue[Signature],
    keys: Collection[str],
    store: Store,
    bucket: ObjectStore,
    _: Sequence[Signature],
    give: Callable[[Pulled | int], None],
) -> None:
    pull(store, bucket, turns, give, keys=keys)


def _ask(
    remote: RemoteConfig,
    keys: Collection[str],
    signatures: Sequence[Signature],
    give: Callable[[Pulled], None],
) -> None:
    bucket = ObjectStore(remote)

    def look(signature: Signature) -> Pulled | None:
        data = bucket.get(record_key(signature), records.LARGEST)
        with contextlib.suppress(records.BadRecord):
            if data is not None:
                trusted = records.decode(data, signature).is_trusted(keys)
                return None if trusted else Pulled(signature, Outcome.UNTRUSTED, why=NOT_SIGNED)
        return Pulled(signature, Outcome.MISSING)

    with RequestPool(bucket) as requests:
        for _, lacking in requests.ahead(look, signatures, remote.jobs):
            if lacking is not None:
                give(lacking)


def _list(remote: RemoteConfig, give: Callable[[Signature], None]) -> None:
    for key in ObjectStore(remote).keys(RECORDS):
        if (signature := recorded_at(key)) is not None:
            give(signature)
