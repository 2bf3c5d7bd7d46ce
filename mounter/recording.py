"""The records of what `cas mount` makes."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence

from cas import mounts
from cas.boot import boot_id
from mounter.plan import Plan, Strategy


def new_source() -> str:
    """Return a name for the source of a mount that no other mount has."""
    return f"cas-{os.urandom(8).hex()}"


def new_record(
    plan: Plan,
    strategy: Strategy,
    created: Sequence[bytes],
    *,
    source: str | None = None,
    staging: bytes | None = None,
) -> mounts.MountRecord:
    """Make the record of a plan that is about to be carried out."""
    before = os.stat(plan.target)
    return mounts.MountRecord(
        target=os.fsdecode(plan.target),
        strategy=strategy.value,
        plan=plan.encode(),
        trees=sorted(plan.used),
        created=[os.fsdecode(directory) for directory in created],
        mode=stat.S_IMODE(before.st_mode),
        uid=before.st_uid,
        gid=before.st_gid,
        staging=None if staging is None else os.fsdecode(staging),
        boot_id=boot_id(),
        namespace=mounts.mount_namespace(),
        sources=[] if source is None else [source],
        since_ns=time.time_ns(),
        by_uid=os.geteuid(),
        by_pid=os.getpid(),
    )
