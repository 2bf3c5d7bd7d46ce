"""The records that `cas mount` writes, and the counts of sysroots."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Sequence

from cas.disk import mount_records
from cas.disk.boot import boot_id
from cas.disk.counters import Counts, add_counts
from cas.errors import InputRefused, StoreDamaged
from cas.system.mountinfo import mount_namespace
from cas.system.text import quoted
from mounter.plan import Plan, Strategy


def count_sysroots(plans: Iterable[Plan], *, overlaid: bool) -> None:
    """Count sysroots that were made, if the store is writable; see `cas.disk.counters`."""
    for plan in plans:
        counts = Counts(mount_hits=len(plan.artifacts))
        if overlaid:
            counts = counts._replace(overlays=1, entries=plan.entries)
        add_counts(plan.store, counts)


def new_source_name() -> str:
    """Return a unique name for the source of a mount, by which it is recognized."""
    return f"cas-{os.urandom(8).hex()}"


def new_record(
    plan: Plan,
    strategy: Strategy,
    created: Sequence[bytes],
    *,
    source: str | None = None,
    staging: bytes | None = None,
) -> mount_records.MountRecord:
    """Return the record of a plan that is about to be mounted. Raises OSError."""
    target = os.stat(plan.target)
    return mount_records.MountRecord(
        target=os.fsdecode(plan.target),
        strategy=strategy.value,
        created=[os.fsdecode(directory) for directory in created],
        mode=stat.S_IMODE(target.st_mode),
        uid=target.st_uid,
        gid=target.st_gid,
        staging=None if staging is None else os.fsdecode(staging),
        boot_id=boot_id(),
        namespace=mount_namespace(),
        sources=[] if source is None else [source],
        since_ns=time.time_ns(),
        by_uid=os.geteuid(),
        by_pid=os.getpid(),
        upper=None if plan.upper is None else os.fsdecode(plan.upper),
        plans=(plan.dump(),),
    )


def recorded_plans(store: bytes, record: mount_records.MountRecord) -> list[Plan]:
    """Return the plans of a record in the store at `store`, with that path.

    The store may have had another path when the record was written. Raises StoreDamaged.
    """
    try:
        plans = [Plan.decode(document) for document in mount_records.plan_documents(store, record)]
    except InputRefused as error:
        path = quoted(mount_records.record_path(store, os.fsencode(record.target)))
        raise StoreDamaged(f"the mount record {path} is corrupt: {error.message}") from error
    return [plan._replace(store=store, target=os.fsencode(record.target)) for plan in plans]
