"""Replaces the composition that is mounted at a target, while it is in use."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cas.disk import mount_records
from cas.errors import InputRefused, InUse
from cas.model.signature import NoSuchSignature, Signature
from cas.system.debug_log import debug
from cas.system.directories import open_directory
from cas.system.oserrors import adding_path
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.text import quoted
from mounter import syscalls
from mounter.linked.place import make_staged_tree, new_staging_name, plan_on_disk, remove_staging
from mounter.linked.remove import refuse_foreign_files, remove_linked_tree
from mounter.mounting import Mount
from mounter.overlay.overlay import MountApiMissing, attach_overlay, make_overlay
from mounter.plan import NoStrategy, Plan, Strategy, StrategyRefused
from mounter.records import count_sysroots, new_record, new_source_name
from mounter.targets import StrPath, resolve_target
from mounter.unmounting import NotMounted, is_unrecorded_mount, refuse_unreachable_mount

if TYPE_CHECKING:
    from cas.compose.composition import Composition


class UpdateResult(NamedTuple):
    """The new mount. The target was unmounted for `gap_ns` nanoseconds; `why` if that is not 0."""

    mount: Mount
    gap_ns: int
    why: str | None


def mounted_ids(store: StrPath, target: StrPath) -> list[str]:
    """Return the IDs mounted at `target`, lowest first, with priorities (`ID@N`).

    Raises NotMounted, InputRefused (the mount is writable), StoreDamaged, OSError.
    """
    path = os.path.realpath(os.fsencode(store))
    record = _live_record(path, resolve_target(target))
    _refuse_writable(path, record)
    # Of two linked trees, a killed update, the files show which one is mounted.
    if len(record.plans) == 1 or record.strategy == Strategy.OVERLAY.value:
        plan, *_ = mount_records.plan_documents(path, record)
        return [artifact["id"] for artifact in plan["artifacts"]]
    with open_directory(os.fsencode(record.target)) as root:
        return [artifact.id for artifact in plan_on_disk(path, record, root).artifacts]


def _refuse_writable(store: bytes, record: mount_records.MountRecord) -> None:
    plan, *_ = mount_records.plan_documents(store, record)
    if plan["writable"]:
        raise InputRefused(
            f"{quoted(record.target)} is writable: its changes belong to the mounted composition",
            hint="unmount it, and mount the new composition",
        )


def remove_ids(ids: Sequence[str], drop: Iterable[str], *, missing_ok: bool = False) -> list[str]:
    """Return `ids` without those that match the abbreviations `drop`, ignoring priorities.

    Raises NoSuchSignature if an abbreviation matches none, unless `missing_ok`.
    """
    remaining = list(ids)
    for abbreviation in drop:
        signatures = [(id_, Signature.parse(id_.partition("@")[0])) for id_ in remaining]
        name = abbreviation.partition("@")[0]
        # An abbreviated hash counts only if nothing matches without.
        for cut_hash in (False, True):
            dropped = [id_ for id_, s in signatures if s.matches(name, cut_hash=cut_hash)]
            if dropped:
                break
        else:
            if missing_ok:
                continue
            raise NoSuchSignature([abbreviation], "the mounted composition")
        remaining = [id_ for id_ in remaining if id_ not in dropped]
    return remaining


def update(
    composition: Composition, target: StrPath, progress: Progress = NO_PROGRESS
) -> UpdateResult:
    """Replace what is mounted at `target` with a composition, atomically, by the same strategy.

    For a linked tree, `progress` counts the files made, and then the names removed from the old
    tree. Raises NotMounted, InUse, InputRefused (the mount is writable), NoStrategy, StoreDamaged,
    OSError.
    """
    plan = Plan.of(composition, resolve_target(target))
    with adding_path(plan.target), mount_records.record_lock(plan.store, plan.target):
        record = _live_record(plan.store, plan.target)
        _refuse_writable(plan.store, record)
        old_plan, *_ = mount_records.plan_documents(plan.store, record)
        plan = plan.by(Strategy(record.strategy), old_plan["reasons"])
        if plan.strategy is Strategy.OVERLAY:
            if not mount_records.is_mounted(record):
                refuse_unreachable_mount(record)
            result = _swap_overlay(plan, record)
        else:
            result = swap_tree(plan, record, progress)
        debug("updated %s, unmounted for %d ns", quoted(plan.target), result.gap_ns)
        count_sysroots([plan], overlaid=plan.strategy is Strategy.OVERLAY)
        return result


def _swap_overlay(plan: Plan, record: mount_records.MountRecord) -> UpdateResult:
    """Mount the new overlay beneath the old one, and unmount the old one (Linux 6.5)."""
    # If an update was killed after mounting its overlay beneath, unmount the upper one first.
    while mount_records.count_mounted(record) > 1:
        syscalls.umount(plan.target, syscalls.MNT_DETACH)
    source = new_source_name()
    after = _updated_record(plan, record, source=source)
    both = after._replace(
        sources=[*record.sources, source],
        plans=(*after.plans, record.plans[0]),
    )
    # Until the swap is complete, either overlay may be mounted, and both must stay in use.
    mount_records.write_record(plan.store, both)
    try:
        gap_ns, why = _swap_mounts(plan, source)
    except StrategyRefused as refusal:
        mount_records.write_record(plan.store, record)
        raise NoStrategy(plan.target, [f"overlay: {refusal}"]) from refusal
    mount_records.write_record(plan.store, after)
    return UpdateResult(Mount(plan.store, plan.target, plan.strategy, plan.reasons), gap_ns, why)


def _swap_mounts(plan: Plan, source: str) -> tuple[int, str | None]:
    """Replace the mount; return the gap in nanoseconds, and the reason if there was one."""
    try:
        overlay = make_overlay(plan, source)
    except MountApiMissing as error:
        return _replace_mount(plan, source, None), str(error)
    try:
        with open_directory(plan.target) as directory:
            syscalls.move_mount(overlay, directory, plan.target, beneath=True)
    except OSError as error:
        why = f"this kernel cannot mount beneath another mount: {error.strerror}"
        return _replace_mount(plan, source, overlay), why
    finally:
        os.close(overlay)
    syscalls.umount(plan.target, syscalls.MNT_DETACH)
    return 0, None


def _replace_mount(plan: Plan, source: str, overlay: int | None) -> int:
    """Unmount the old overlay, then attach the new one; return the gap in nanoseconds."""
    began = time.monotonic_ns()
    syscalls.umount(plan.target, syscalls.MNT_DETACH)
    with open_directory(plan.target) as directory:
        if overlay is None:
            attach_overlay(plan, source, directory)
        else:
            syscalls.move_mount(overlay, directory, plan.target)
    return time.monotonic_ns() - began


def swap_tree(
    plan: Plan, record: mount_records.MountRecord, progress: Progress = NO_PROGRESS
) -> UpdateResult:
    """Make the new tree at a staging path, and swap the names of both (renameat2(2))."""
    with open_directory(plan.target) as root:
        old = plan_on_disk(plan.store, record, root)
        refuse_foreign_files(old, old.content(), root)
    remove_staging(record)
    parent_path, name, staging_name = new_staging_name(plan.target)
    staging = os.path.join(parent_path, staging_name)
    with open_directory(parent_path) as parent:
        both = record._replace(
            staging=os.fsdecode(staging),
            plans=(old.dump(), plan.dump()),
        )
        mount_records.write_record(plan.store, both)
        try:
            make_staged_tree(plan, plan.strategy, staging_name, parent, progress)
        except StrategyRefused as refusal:
            mount_records.write_record(plan.store, record)
            raise NoStrategy(plan.target, [f"{plan.strategy.value}: {refusal}"]) from refusal
        gap_ns, why = swap_or_rename(name, staging_name, parent)
        after = _updated_record(plan, record, staging=staging)
        mount_records.write_record(plan.store, after)
        done = after._replace(staging=None)
        try:
            _remove_old_tree(old._replace(target=staging), staging_name, parent, progress)
        except InUse:
            # The old tree holds foreign files: no later command may remove it as a leftover.
            mount_records.write_record(plan.store, done)
            raise
        mount_records.write_record(plan.store, done)
    return UpdateResult(Mount(plan.store, plan.target, plan.strategy, plan.reasons), gap_ns, why)


def _remove_old_tree(old: Plan, staging_name: bytes, parent: int, progress: Progress) -> None:
    """Remove the old tree, unless foreign files were added during the update. Raises InUse."""
    with open_directory(staging_name, parent) as root:
        try:
            remove_linked_tree(old, old.content(), root, progress)
        except InUse as error:
            raise InUse(
                f"the sysroot is updated, but the old tree remains: {error.message}",
                hint="save those files, and delete the old tree",
            ) from error
    os.rmdir(staging_name, dir_fd=parent)


def swap_or_rename(name: bytes, staging_name: bytes, parent: int) -> tuple[int, str | None]:
    """Swap two names, or rename both where the file system cannot swap.

    Returns the time without a tree in nanoseconds, and the reason for it; 0 and None if they were
    swapped. Raises OSError.
    """
    try:
        syscalls.swap_names(name, staging_name, parent)
    except OSError as error:
        aside = staging_name + b".old"
        began = time.monotonic_ns()
        os.rename(name, aside, src_dir_fd=parent, dst_dir_fd=parent)
        os.rename(staging_name, name, src_dir_fd=parent, dst_dir_fd=parent)
        gap_ns = time.monotonic_ns() - began
        os.rename(aside, staging_name, src_dir_fd=parent, dst_dir_fd=parent)
        return gap_ns, f"this file system cannot swap two names: {error.strerror}"
    return 0, None


def _updated_record(
    plan: Plan,
    previous: mount_records.MountRecord,
    *,
    source: str | None = None,
    staging: bytes | None = None,
) -> mount_records.MountRecord:
    """Return the record of a plan that replaces another at the same target."""
    created = [os.fsencode(directory) for directory in previous.created]
    record = new_record(plan, plan.strategy, created, source=source, staging=staging)
    return record._replace(mode=previous.mode, uid=previous.uid, gid=previous.gid)


def _live_record(store: bytes, target: bytes) -> mount_records.MountRecord:
    """Return the record of a mount. Raises NotMounted, InputRefused, StoreDamaged, OSError."""
    record = mount_records.read_record(store, target)
    if record is None and is_unrecorded_mount(store, target):
        raise InputRefused(
            f"cannot update {quoted(target)}: its store is read-only, so it has no record",
            hint="unmount it, and mount the new composition",
        )
    if record is None or not mount_records.may_be_mounted(record):
        raise NotMounted(store, target)
    return record
