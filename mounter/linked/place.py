"""Places linked trees at their targets, and removes them again.

A tree is made at a staging path next to its target, `.NAME.cas-…`, and renamed over it; so a killed
process leaves nothing incomplete at the target.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

from cas.disk import mount_records
from cas.errors import InUse
from cas.system.directories import open_directory
from cas.system.oserrors import adding_path
from cas.system.paths import temporary_name
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.remove_tree import remove_tree
from cas.system.signals import signals_blocked
from mounter.linked.make import make_linked_tree
from mounter.linked.remove import refuse_foreign_files, remove_linked_tree
from mounter.plan import Plan, Strategy, StrategyRefused
from mounter.records import new_record, recorded_plans
from mounter.targets import directory_lock

STORE_READ_ONLY = "the store is on a read-only file system, so the tree cannot be recorded"


def place_linked_tree(
    plan: Plan, strategy: Strategy, created: Sequence[bytes], progress: Progress = NO_PROGRESS
) -> None:
    """Make the tree at a staging path, and rename it over the target.

    Raises what `make_staged_tree` raises, OSError.
    """
    parent_path, name, staging = new_staging_name(plan.target)
    record = new_record(plan, strategy, created, staging=os.path.join(parent_path, staging))
    try:
        mount_records.write_record(plan.store, record)
    except OSError as error:
        if error.errno == errno.EROFS:
            raise StrategyRefused(STORE_READ_ONLY) from error
        raise
    with open_directory(parent_path) as parent:
        make_staged_tree(plan, strategy, staging, parent, progress)
        try:
            os.rename(staging, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with signals_blocked():
                remove_tree(staging, parent)
            raise


def remove_placed_tree(
    store: bytes, path: bytes, record: mount_records.MountRecord, progress: Progress = NO_PROGRESS
) -> None:
    """Remove what `place_linked_tree` made at `path`, and nothing else.

    The directory itself remains, with the mode from before. Raises InUse, StoreDamaged, OSError.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        remove_staging(record)
        return
    with directory_lock(path), open_directory(path) as root:
        plan = plan_on_disk(store, record, root)
        remove_staging(record)
        remove_linked_tree(plan, plan.content(), root, progress)
        os.fchmod(root, record.mode)


def plan_on_disk(store: bytes, record: mount_records.MountRecord, root: int) -> Plan:
    """Return the plan that matches the tree open at `root`.

    A record has two plans if an update was killed: the tree may be the old or the new one.
    """
    plan, *others = recorded_plans(store, record)
    for other in others:
        with contextlib.suppress(InUse):
            refuse_foreign_files(other, other.content(), root)
            return other
    return plan


def make_staged_tree(
    plan: Plan, strategy: Strategy, staging: bytes, parent: int, progress: Progress = NO_PROGRESS
) -> None:
    """Make a plan's linked tree under the name `staging` in the directory open at `parent`.

    The tree has the target's owner. Raises what `make_linked_tree` raises, and leaves nothing then.
    """
    target = os.stat(plan.target)
    try:
        with adding_path(parent):
            os.mkdir(staging, 0o700, dir_fd=parent)
        with open_directory(staging, parent) as root:
            make_linked_tree(plan, strategy, plan.content(), root, progress)
            if os.fstat(root).st_uid != target.st_uid:
                os.fchown(root, target.st_uid, target.st_gid)
    except BaseException:
        with signals_blocked():
            remove_tree(staging, parent)
        raise


def new_staging_name(target: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a target's parent, its name, and an unused name in the parent."""
    parent, name = os.path.split(target)
    return parent, name, b"." + temporary_name(name)


def remove_staging(record: mount_records.MountRecord) -> None:
    """Remove the tree that a killed process left next to a target. Raises OSError."""
    if record.staging is not None:
        parent, name = os.path.split(os.fsencode(record.staging))
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            open_directory(parent) as fd,
        ):
            remove_tree(name, fd)
