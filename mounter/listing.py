"""The mounts of a store, and the commands that use it."""

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
    """A mount, or a running command with its own mounts.

    `where` is the target, or the purpose of the command's lease. `state` is "alive", "stale"
    (ended without `cas umount`), "elsewhere" (in another mount namespace, covered or moved) or
    "running". `pid` identifies the process that made it, in that process's PID namespace.
    """

    where: bytes
    state: str
    strategy: str
    ids: tuple[str, ...]
    since_ns: int
    user: str
    pid: int


def all_mounts(store: bytes) -> Iterator[MountInfo]:
    """Yield the mounts and running commands of the store at an absolute path.

    Raises OSError, StoreDamaged.
    """
    for record in mount_records.iter_records(store):
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
    """Remove the records and leftovers of all mounts that have ended; yield their targets.

    Raises OSError, InUse, StoreDamaged.
    """
    for record in mount_records.iter_records(store):
        if not mount_records.may_be_mounted(record):
            umount(store, record.target)
            yield os.fsencode(record.target)


def _state(record: mount_records.MountRecord) -> str:
    if not mount_records.may_be_mounted(record):
        return "stale"
    is_overlay = record.strategy == Strategy.OVERLAY.value
    return "elsewhere" if is_overlay and not mount_records.is_mounted(record) else "alive"
