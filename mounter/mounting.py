"""`cas mount` and `cas umount`: a composition at a directory, and the way back."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cas.disk import mount_records
from cas.errors import CasError, InUse
from cas.system.directories import open_directory
from cas.system.mountinfo import mount_namespace, source_of
from cas.system.oserrors import adding_path
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.signals import signals_blocked
from cas.system.text import quoted
from mounter import syscalls
from mounter.overlay.overlay import attach_overlay
from mounter.overlay.upper import (
    clear_upper_note,
    refuse_locked_upper,
    upper_directories,
    upper_lock,
)
from mounter.plan import NoStrategy, Plan, Strategy, StrategyRefused
from mounter.records import count_sysroots, new_record, new_source_name
from mounter.targets import (
    StrPath,
    absolute_target,
    check_target,
    directory_lock,
    make_directories,
    nearest_directory,
    refuse_nonempty,
    remove_directories,
    resolve_target,
)

if TYPE_CHECKING:
    from cas.compose.composition import Composition


class NotMounted(CasError):
    """`cas mount` made nothing at a path, as far as this store knows."""

    def __init__(self, store: bytes, target: bytes) -> None:
        super().__init__(
            f"nothing from the store {quoted(store)} is mounted at {quoted(target)}",
            hint="give the TARGET and the --store that `cas mount` was given",
        )


class Mount(NamedTuple):
    """A composition is at `target` (absolute), by `strategy`.

    `reasons` says for each strategy that was tried before why it could not be used.
    """

    store: bytes
    target: bytes
    strategy: Strategy
    reasons: tuple[str, ...]

    def umount(self) -> None:
        """Take it away; see `umount`."""
        umount(self.store, self.target)


def planned(
    composition: Composition,
    target: StrPath,
    strategy: Strategy = Strategy.AUTO,
    *,
    writable: bool = False,
    upper: StrPath | None = None,
) -> Plan:
    """Plan a composition at `target`; see `mount`. Nothing is tried, and nothing done."""
    return Plan.of(composition, absolute_target(target))._replace(
        strategy=strategy,
        writable=writable or upper is not None,
        upper=None if upper is None else os.path.realpath(os.fsencode(upper)),
    )


def mount(
    composition: Composition,
    target: StrPath,
    strategy: Strategy = Strategy.AUTO,
    *,
    writable: bool = False,
    upper: StrPath | None = None,
    progress: Progress = NO_PROGRESS,
) -> Mount:
    """Make a composition appear at the directory `target`, read-only.

    `target` is made, with its parents, if it is missing, and must be empty otherwise. It stays
    until `umount`, whatever becomes of this process; so the composition may be closed then.

    With `writable` it takes changes, which are thrown away by `umount`, or stay in `upper/` of
    the directory `upper` if that is given. The store is not changed by them.
    `progress` gets files that are linked or copied.

    Raises InputRefused (an unfit target), InUse (something is there already, or `upper` is in
    use), NoStrategy, StoreDamaged, OSError.
    """
    plan = planned(composition, target, strategy, writable=writable, upper=upper)
    return carry_out(plan, progress)


def carry_out(plan: Plan, progress: Progress = NO_PROGRESS) -> Mount:
    """Mount as a plan says; see `mount`. The caller has a lease on what the plan uses."""
    check_target(plan)
    created = make_directories(plan.target)
    source = new_source_name()
    try:
        with adding_path(plan.target), directory_lock(plan.target), upper_lock(plan, source):
            _clear_stale_record(plan)
            refuse_nonempty(plan.target)
            return _try_strategies(plan, created, source, progress)
    except BaseException:
        remove_directories(created)
        raise


@contextlib.contextmanager
def mounted(
    composition: Composition,
    target: StrPath,
    strategy: Strategy = Strategy.AUTO,
    *,
    writable: bool = False,
) -> Iterator[Mount]:
    """`mount` for the length of a `with` block, which gets the Mount.

    A child that was forked meanwhile, and leaves the block too, takes nothing away.
    """
    owner = os.getpid()
    made = mount(composition, target, strategy, writable=writable)
    try:
        yield made
    finally:
        if os.getpid() == owner:
            made.umount()


def umount(
    store: StrPath, target: StrPath, *, forget: bool = False, progress: Progress = NO_PROGRESS
) -> Strategy:
    """Take away what `mount` made at `target` from the store in the directory `store`.

    Directories that `mount` made go too, if they are empty. With `forget`, a mount that was made
    in another mount namespace is taken for ended with that, which cannot be found out from here:
    nothing of the store is held for it any more. `progress` gets what goes of a linked
    tree. Returns the strategy it was made by.

    Raises NotMounted, InUse (busy, or something in it that `mount` did not make; nothing is
    removed then), StoreDamaged, OSError.
    """
    root = os.path.realpath(os.fsencode(store))
    path = resolve_target(target)
    with adding_path(path), mount_records.record_lock(root, path):
        record = mount_records.read_record(root, path)
        if record is None:
            return _umount_unrecorded(root, path)
        if record.strategy == Strategy.OVERLAY.value:
            if not forget or record.namespace == mount_namespace():
                _umount_overlay(path, record)
            if record.upper is not None:
                clear_upper_note(os.fsencode(record.upper), record.sources)
        else:
            from mounter.linked.place import remove_placed_tree

            remove_placed_tree(root, path, record, progress)
        with signals_blocked():
            mount_records.remove_record(root, path)
            remove_directories([os.fsencode(directory) for directory in record.created])
    return Strategy(record.strategy)


def refuse_unmountable(plan: Plan) -> None:
    """Refuse what `carry_out` would refuse before it does anything, and change nothing.

    Raises InputRefused, InUse, OSError.
    """
    check_target(plan)
    refuse_locked_upper(plan)
    _stale_record(plan)
    if os.path.isdir(plan.target):
        refuse_nonempty(plan.target)
        return
    parent = nearest_directory(os.path.dirname(plan.target))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(parent))


def _clear_stale_record(plan: Plan) -> None:
    """Refuse a target where something is mounted; clear away what a dead mount left there."""
    record = _stale_record(plan)
    if record is not None:
        from mounter.linked.place import remove_staging

        remove_staging(record)
        mount_records.remove_record(plan.store, plan.target)


def _stale_record(plan: Plan) -> mount_records.MountRecord | None:
    """Return the record of what was mounted at the target. Raises InUse if it still is."""
    record = mount_records.read_record(plan.store, plan.target)
    if record is None:
        return None
    if record.strategy == Strategy.OVERLAY.value:
        rest = source_of(plan.target) in mount_records.all_sources(record)
        alive = rest or mount_records.may_be_mounted(record)
    else:
        alive = bool(os.listdir(plan.target))
    if alive:
        raise InUse(
            f"something is mounted at {quoted(plan.target)}",
            hint=f"`cas umount {quoted(plan.target)}` takes it away, or tells why not",
        )
    return record


def _try_strategies(plan: Plan, created: Sequence[bytes], source: str, progress: Progress) -> Mount:
    reasons = list(plan.reasons)
    for candidate in plan.candidates:
        try:
            if candidate is Strategy.OVERLAY:
                _mount_overlay(plan, created, source)
            else:
                from mounter.linked.place import place_linked_tree

                place_linked_tree(plan, candidate, created, progress)
            count_sysroots([plan], overlaid=candidate is Strategy.OVERLAY)
            return Mount(plan.store, plan.target, candidate, tuple(reasons))
        except StrategyRefused as refusal:
            mount_records.remove_record(plan.store, plan.target)
            reasons.append(f"{candidate.value}: {refusal}")
        except BaseException:
            with signals_blocked():
                _roll_back(plan)
            raise
    raise NoStrategy(plan.target, reasons)


def _roll_back(plan: Plan) -> None:
    """Take away what was made before something failed, if it was complete, and its record."""
    record = mount_records.read_record(plan.store, plan.target)
    if record is None:
        return
    if record.strategy == Strategy.OVERLAY.value:
        while source_of(plan.target) in mount_records.all_sources(record):
            syscalls.umount(plan.target, syscalls.MNT_DETACH)
    elif os.listdir(plan.target):  # else what was made beside it is gone already
        from mounter.linked.place import remove_placed_tree

        remove_placed_tree(plan.store, plan.target, record)
    mount_records.remove_record(plan.store, plan.target)


def _mount_overlay(plan: Plan, created: Sequence[bytes], source: str) -> None:
    with open_directory(plan.target) as target:
        try:
            mount_records.write_record(
                plan.store, new_record(plan, Strategy.OVERLAY, created, source=source)
            )
        except OSError as error:
            if error.errno != errno.EROFS:  # in a store that cannot change, nothing is removed
                raise
        with upper_directories(plan, source, target) as upper:
            attach_overlay(plan, source, target, upper)


def _umount_overlay(path: bytes, record: mount_records.MountRecord) -> None:
    source = source_of(path)
    if source not in record.sources:
        refuse_unreachable_mount(record)
    while source in mount_records.all_sources(record):
        _umount_once(path)
        source = source_of(path)


def refuse_unreachable_mount(record: mount_records.MountRecord) -> None:
    """Refuse a kernel mount that lives, and is not what is to be seen at its target.

    Raises InUse.
    """
    where = quoted(record.target)
    if not mount_records.may_be_mounted(record):
        return
    if record.namespace != mount_namespace():
        raise InUse(
            f"{where} was mounted in another mount namespace than this one",
            hint="do it there; or if no process is left in that namespace, "
            f"`cas umount --forget {where}` forgets it",
        )
    raise InUse(
        f"what was mounted at {where} is covered by another mount, or was moved",
        hint="take the other mount away (`findmnt` shows it), and try again",
    )


def _umount_once(path: bytes) -> None:
    try:
        syscalls.umount(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise InUse(
            f"cannot unmount {quoted(path)}: {error.strerror}",
            hint="end what runs or stands in it (`fuser -vm` shows it) and try again",
        ) from error


def _umount_unrecorded(store: bytes, path: bytes) -> Strategy:
    """Unmount an overlay from a store on a read-only file system, which has no records."""
    source = source_of(path) or ""
    if not is_unrecorded_mount(store, path):
        raise NotMounted(store, path)
    while source_of(path) in (source, source + mount_records.CHANGES):
        _umount_once(path)
    return Strategy.OVERLAY


def is_unrecorded_mount(store: bytes, path: bytes) -> bool:
    """Tell whether `mount` made what is at a path from a store on a read-only file system."""
    read_only = os.path.isdir(store) and os.statvfs(store).f_flag & os.ST_RDONLY
    source = source_of(path) or ""
    return bool(read_only) and source.startswith("cas-") and os.path.ismount(path)
