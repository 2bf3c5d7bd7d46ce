"""Pulls and pushes, by processes of their own.

obstore hangs in a process that was forked from one that has used it, and it does not let Ctrl-C
through while a request lasts. So nobody uses it but processes that were forked for that, which end
with what they do, or when who made them does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from cas.artifact import Artifact
from cas.errors import InputRefused
from cas.remote import records
from cas.remote.ahead import Requests
from cas.remote.bucket import Bucket, Remote
from cas.remote.layout import RECORDS, record_key, recorded_at
from cas.remote.outcomes import Pulled, Pushed
from cas.remote.pull import pull
from cas.remote.push import Terms, push
from cas.signature import Signature
from cas.store import Store
from cas.workers import Worker, spread

_MOST_PROCESSES = 4
_COST_OF_AN_ARTIFACT = 1_000_000
"""How many bytes are sent in the time that an artifact takes besides."""


def pull_from(
    store: Store,
    remote: Remote,
    keys: Collection[str],
    signatures: Iterable[Signature],
    take: Callable[[Pulled], None],
) -> None:
    """Store artifacts that are in a remote and not here; `take` gets what became of each.

    One that is missing there, or damaged, does not keep others from being stored. Records have to
    be signed by one of `keys`, if there are any. Raises NoRemotes, RemoteFailed, InputRefused,
    CasError, OSError; what was stored before that stays.
    """
    wanted = dict.fromkeys(signatures, 1)
    processes, part = _share(remote, len(wanted))
    work = partial(_pull_part, store, part, keys)
    weight = wanted.__getitem__
    spread(work, wanted, take, weight=weight, least=0, apart=True, most=processes)


def push_to(
    store: Store,
    remote: Remote,
    terms: Terms,
    artifacts: Iterable[Artifact],
    take: Callable[[Pushed], None],
) -> None:
    """Write artifacts of the store to a remote; `take` gets what became of each.

    One that is there with another tree does not keep others from being pushed. Raises NoRemotes,
    RemoteFailed, InputRefused, StoreDamaged, CasError, OSError; what was pushed before that stays.
    """
    refuse_read_only(remote)
    sizes = {one.signature: one.size + _COST_OF_AN_ARTIFACT for one in artifacts}
    processes, part = _share(remote, len(sizes))
    work = partial(_push_part, store, part, terms)
    weight = sizes.__getitem__
    spread(work, sizes, take, weight=weight, least=0, apart=True, most=processes)


def missing_in(
    remote: Remote, keys: Collection[str], signatures: Iterable[Signature]
) -> list[Signature]:
    """Return those of some signatures that a pull would not find a record of.

    Raises NoRemotes, RemoteFailed, InputRefused, OSError.
    """
    return Worker[Signature](partial(_ask, remote, keys, list(signatures))).all_results()


def recorded_in(remote: Remote) -> list[Signature]:
    """Return all signatures that have a record in a remote, in their order.

    Raises NoRemotes, RemoteFailed, InputRefused, OSError.
    """
    return sorted(Worker[Signature](partial(_list, remote)).all_results())


def refuse_read_only(remote: Remote) -> None:
    """Raise InputRefused if nothing can be written to a remote."""
    if remote.is_read_only:
        raise InputRefused(
            f"{remote.url} is a mirror, which can only be read",
            hint="push to the store that it mirrors, by s3://…, gs://…, az://… or file://…",
        )


def _share(remote: Remote, items: int) -> tuple[int, Remote]:
    """Return for how many processes there is work, and a remote with each one's requests."""
    processes = max(min(len(os.sched_getaffinity(0)), _MOST_PROCESSES, items, remote.jobs), 1)
    return processes, remote._replace(jobs=remote.jobs // processes)


def _pull_part(
    store: Store,
    remote: Remote,
    keys: Collection[str],
    signatures: Sequence[Signature],
    give: Callable[[Pulled], None],
) -> None:
    store.close()  # a process that was forked opens its own
    with Store(store.path) as own:
        pull(own, Bucket(remote), keys, signatures, give)


def _push_part(
    store: Store,
    remote: Remote,
    terms: Terms,
    signatures: Sequence[Signature],
    give: Callable[[Pushed], None],
) -> None:
    store.close()
    with Store(store.path) as own:
        push(own, Bucket(remote, create=True), terms, signatures, give)


def _ask(
    remote: Remote,
    keys: Collection[str],
    signatures: Sequence[Signature],
    give: Callable[[Signature], None],
) -> None:
    bucket = Bucket(remote)

    def is_there(signature: Signature) -> bool:
        data = bucket.get(record_key(signature), records.LARGEST)
        with contextlib.suppress(records.BadRecord):
            return data is not None and records.decode(data, signature).is_trusted(keys)
        return False

    requests = Requests(bucket)
    for signature, there in requests.ahead(is_there, signatures, remote.jobs):
        if not there:
            give(signature)


def _list(remote: Remote, give: Callable[[Signature], None]) -> None:
    for key in Bucket(remote).keys(RECORDS):
        if (signature := recorded_at(key)) is not None:
            give(signature)
