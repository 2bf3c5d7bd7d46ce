"""`cas update`: another composition at a target that is in use."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cas.disk import mount_records
from cas.errors import InputRefused, InUse
from cas.model.signature import NoSuchSignature, Signature
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
    """A mount was exchanged. For `gap_ns` nanoseconds there was none; `why`, if that is not 0."""

    mount: Mount
    gap_ns: int
    why: str | None


def mounted_ids(store: StrPath, target: StrPath) -> list[str]:
    """Return the IDs that `update` would exchange, lowest first, with priorities (`ID@N`).

    Raises NotMounted, InputRefused (it is writable), StoreDamaged, OSError.
    """
    path = os.path.realpath(os.fsencode(store))
    record = _live_record(path, resolve_target(target))
    _refuse_writable(path, record)
    if len(record.plans) == 1 or record.strategy == Strategy.OVERLAY.value:
        plan, *_ = mount_records.plan_documents(path, record)
        return [artifact["id"] for artifact in plan["artifacts"]]
    with open_directory(os.fsencode(record.target)) as root:
        return [artifact.id for artifact in plan_on_disk(path, record, root).artifacts]


def _refuse_writable(store: bytes, record: mount_records.MountRecord) -> None:
    plan, *_ = mount_records.plan_documents(store, record)
    if plan["writable"]:
        raise InputRefused(
            f"{quoted(record.target)} is writable: its changes belong to what is mounted",
            hint="unmount it, and mount the new composition",
        )


def remove_ids(ids: Sequence[str], drop: Iterable[str], *, missing_ok: bool = False) -> list[str]:
    """Return IDs without those that the abbreviations `drop` name, whatever their priorities.

    Raises NoSuchSignature if one names none, unless `missing_ok`.
    """
    left = list(ids)
    for name in drop:
        signatures = [(id_, Signature.parse(id_.partition("@")[0])) for id_ in left]
        wanted = name.partition("@")[0]
        for cut_hash in (False, True):
            named = [i for i, s in signatures if s.matches(wanted, cut_hash=cut_hash)]
            if named:
                break
        else:
            if missing_ok:
                continue
            raise NoSuchSignature([name], "the mounted composition")
        left = [id_ for id_ in left if id_ not in named]
    return left


def update(
    composition: Composition, target: StrPath, progress: Progress = NO_PROGRESS
) -> UpdateResult:
    """Exchange what is mounted at `target` for a composition, by the same strategy, at once.

    `progress` gets what is made of a linked tree, and then what goes of the old one.
    Raises NotMounted, InUse, InputRefused (it is writable), NoStrategy, StoreDamaged, OSError.
    """
    plan = Plan.of(composition, resolve_target(target))
    with adding_path(plan.target), mount_records.record_lock(plan.store, plan.target):
        record = _live_record(plan.store, plan.target)
        _refuse_writable(plan.store, record)
        before, *_ = mount_records.plan_documents(plan.store, record)
        plan = plan.by(Strategy(record.strategy), before["reasons"])
        if plan.strategy is Strategy.OVERLAY:
            if not mount_records.is_mounted(record):
                refuse_unreachable_mount(record)
            done = _swap_overlay(plan, record)
        else:
            done = _swap_tree(plan, record, progress)
        count_sysroots([plan], overlaid=plan.strategy is Strategy.OVERLAY)
        return done


def _swap_overlay(plan: Plan, record: mount_records.MountRecord) -> UpdateResult:
    """Put the new mount below the old one, and take the old one away (Linux 6.5)."""
    while (
        mount_records.count_mounted(record) > 1
    ):  # an update was killed when the new one was beneath
        syscalls.umount(plan.target, syscalls.MNT_DETACH)
    source = new_source_name()
    after = _updated_record(plan, record, source=source)
    both = after._replace(
        sources=[*record.sources, source],
        plans=(*after.plans, record.plans[0]),
    )
    mount_records.write_record(plan.store, both)
    try:
        gap_ns, why = _swap_mounts(plan, source)
    except StrategyRefused as refusal:
        mount_records.write_record(plan.store, record)
        raise NoStrategy(plan.target, [f"overlay: {refusal}"]) from refusal
    mount_records.write_record(plan.store, after)
    return UpdateResult(Mount(plan.store, plan.target, plan.strategy, plan.reasons), gap_ns, why)


def _swap_mounts(plan: Plan, source: str) -> tuple[int, str | None]:
    try:
        made = make_overlay(plan, source)
    except MountApiMissing as error:
        return _replace_mount(plan, source, None), str(error)
    try:
        with open_directory(plan.target) as directory:
            syscalls.move_mount(made, directory, plan.target, beneath=True)
    except OSError as error:
        why = f"this kernel cannot put a mount beneath another: {error.strerror}"
        return _replace_mount(plan, source, made), why
    finally:
        os.close(made)
    syscalls.umount(plan.target, syscalls.MNT_DETACH)
    return 0, None


def _replace_mount(plan: Plan, source: str, made: int | None) -> int:
    """Take the old mount away and attach the new one; return for how long there was none."""
    began = time.monotonic_ns()
    syscalls.umount(plan.target, syscalls.MNT_DETACH)
    with open_directory(plan.target) as directory:
        if made is None:
            attach_overlay(plan, source, directory)
        else:
            syscalls.move_mount(made, directory, plan.target)
    return time.monotonic_ns() - began


def _swap_tree(
    plan: Plan, record: mount_records.MountRecord, progress: Progress = NO_PROGRESS
) -> UpdateResult:
    """Make the new tree beside the old one, and swap their names (renameat2(2))."""
    with open_directory(plan.target) as root:
        old = plan_on_disk(plan.store, record, root)
        refuse_foreign_files(old, old.content(), root)
    remove_staging(record)
    parent_path, name, beside = new_staging_name(plan.target)
    staging = os.path.join(parent_path, beside)
    with open_directory(parent_path) as parent:
        both = record._replace(
            staging=os.fsdecode(staging),
            plans=(old.dump(), plan.dump()),
        )
        mount_records.write_record(plan.store, both)
        try:
            make_staged_tree(plan, plan.strategy, beside, parent, progress)
        except StrategyRefused as refusal:
            mount_records.write_record(plan.store, record)
            raise NoStrategy(plan.target, [f"{plan.strategy.value}: {refusal}"]) from refusal
        gap_ns, why = _swap_names(name, beside, parent)
        after = _updated_record(plan, record, staging=staging)
        mount_records.write_record(plan.store, after)
        done = after._replace(staging=None)
        try:
            _remove_old(old._replace(target=staging), beside, parent, progress)
        except InUse:  # from now on it is not for others to delete
            mount_records.write_record(plan.store, done)
            raise
        mount_records.write_record(plan.store, done)
    return UpdateResult(Mount(plan.store, plan.target, plan.strategy, plan.reasons), gap_ns, why)


def _remove_old(old: Plan, beside: bytes, parent: int, progress: Progress) -> None:
    """Remove the old tree, unless somebody has put something there meanwhile. Raises InUse."""
    with open_directory(beside, parent) as root:
        try:
            remove_linked_tree(old, old.content(), root, progress)
        except InUse as error:
            raise InUse(
                f"the sysroot is updated, but {error.message}",
                hint="that is the old tree: take out what is needed, and delete it",
            ) from error
    os.rmdir(beside, dir_fd=parent)


def _swap_names(name: bytes, beside: bytes, parent: int) -> tuple[int, str | None]:
    try:
        syscalls.swap_names(name, beside, parent)
    except OSError as error:
        aside = beside + b".old"
        began = time.monotonic_ns()
        os.rename(name, aside, src_dir_fd=parent, dst_dir_fd=parent)
        os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
        gap_ns = time.monotonic_ns() - began
        os.rename(aside, beside, src_dir_fd=parent, dst_dir_fd=parent)
        return gap_ns, f"this file system cannot swap two names: {error.strerror}"
    return 0, None


def _updated_record(
    plan: Plan,
    before: mount_records.MountRecord,
    *,
    source: str | None = None,
    staging: bytes | None = None,
) -> mount_records.MountRecord:
    """Make the record of a plan that takes the place of another at the same target."""
    created = [os.fsencode(directory) for directory in before.created]
    record = new_record(plan, plan.strategy, created, source=source, staging=staging)
    return record._replace(mode=before.mode, uid=before.uid, gid=before.gid)


def _live_record(store: bytes, target: bytes) -> mount_records.MountRecord:
    record = mount_records.read_record(store, target)
    if record is None and is_unrecorded_mount(store, target):
        raise InputRefused(
            f"{quoted(target)} is mounted from a store that is read-only, and has no record",
            hint="unmount it, and mount the new composition",
        )
    if record is None or not mount_records.may_be_mounted(record):
        raise NotMounted(store, target)
    return record
