"""What is mounted from a store, and by whom."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from cas.disk import mount_records
from cas.disk.leases import held_leases
from cas.system.text import name_of_user
from mounter.plan import Strategy
from mounter.unmounting import umount


class MountInfo(NamedTuple):
    """A mount, or a running command with mounts of its own.

    `where` is the target, or what the lease says of it. `state` is "alive", "stale" (gone
    without `cas umount`), "elsewhere" (in another mount namespace, covered or moved) or
    "running". `pid` is that of the process that made it, in its own PID namespace.
    """

    where: bytes
    state: str
    strategy: str
    ids: tuple[str, ...]
    since_ns: int
    user: str
    pid: int


def all_mounts(store: bytes) -> Iterator[MountInfo]:
    """Yield what is recorded in the store at an absolute path. Raises OSError, StoreDamaged."""
    for record in mount_records.all_records(store):
        plan, *_ = mount_records.plan_documents(store, record)
        yield MountInfo(
            where=os.fsencode(record.target),
            state=_state(record),
            strategy=record.strategy,
            ids=tuple(artifact["id"] for artifact in plan["artifacts"]),
            since_ns=record.since_ns,
            user=name_of_user(record.by_uid),
            pid=record.by_pid,
        )
    for lease in held_leases(store):
        yield MountInfo(
            where=os.fsencode(lease.purpose),
            state="running",
            strategy="-",
            ids=tuple(id_ for id_, _ in lease.artifacts),
            since_ns=lease.since_ns,
            user=name_of_user(lease.uid),
            pid=lease.pid,
        )


def umount_stale(store: bytes) -> Iterator[bytes]:
    """Clear away the records of all mounts that are not there any more; yield their targets.

    Raises OSError, InUse, StoreDamaged.
    """
    for record in mount_records.all_records(store):
        if not mount_records.may_be_mounted(record):
            umount(store, record.target)
            yield os.fsencode(record.target)


def _state(record: mount_records.MountRecord) -> str:
    if not mount_records.may_be_mounted(record):
        return "stale"
    kernel_mount = record.strategy == Strategy.OVERLAY.value
    return "elsewhere" if kernel_mount and not mount_records.is_mounted(record) else "alive"
