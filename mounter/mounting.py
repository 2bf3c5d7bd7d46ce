"""Mounts compositions at directories."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cas.disk import mount_records
from cas.errors import InUse
from cas.system.debug_log import debug
from cas.system.directories import open_directory
from cas.system.mountinfo import source_of
from cas.system.oserrors import adding_path
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.signals import signals_blocked
from cas.system.text import quoted
from mounter import syscalls
from mounter.overlay.overlay import attach_overlay
from mounter.overlay.upper import refuse_locked_upper, upper_directories, upper_lock
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
)
from mounter.unmounting import umount

if TYPE_CHECKING:
    from cas.compose.composition import Composition


class Mount(NamedTuple):
    """A composition at `target` (an absolute path), mounted with `strategy`.

    `reasons` says for each strategy that was tried before why it was refused.
    """

    store: bytes
    target: bytes
    strategy: Strategy
    reasons: tuple[str, ...]

    def umount(self) -> None:
        """Unmount it; see `umount`."""
        umount(self.store, self.target)


def planned(
    composition: Composition,
    target: StrPath,
    strategy: Strategy = Strategy.AUTO,
    *,
    writable: bool = False,
    upper: StrPath | None = None,
) -> Plan:
    """Return the plan to mount a composition at `target`; see `mount`. Tries nothing."""
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
    """Mount a composition at the directory `target`, read-only by default.

    `target` must be empty; if it is missing, it is made with its parents. The mount remains until
    `umount`, even after this process has ended, and the composition may be closed.

    With `writable` the mount accepts changes, which `umount` discards; with `upper` they are kept
    in `upper/` of that directory. Changes never reach the store.
    `progress` counts the files that are linked or copied.

    Raises InputRefused (an unsuitable target), InUse (something is mounted there, or `upper` is
    in use), NoStrategy, StoreDamaged, OSError.
    """
    plan = planned(composition, target, strategy, writable=writable, upper=upper)
    return carry_out(plan, progress)


def carry_out(plan: Plan, progress: Progress = NO_PROGRESS) -> Mount:
    """Mount a plan; see `mount`. The caller holds a lease on what the plan uses."""
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
    """`mount` for the length of a `with` block; yields the Mount.

    A child process that is forked in the block and leaves it too does not unmount.
    """
    owner = os.getpid()
    mount_made = mount(composition, target, strategy, writable=writable)
    try:
        yield mount_made
    finally:
        if os.getpid() == owner:
            mount_made.umount()


def refuse_unmountable(plan: Plan) -> None:
    """Refuse a plan that `carry_out` would refuse before it does anything; change nothing.

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
    """Remove the record of a mount that has ended, and its leftovers. Raises InUse, OSError."""
    record = _stale_record(plan)
    if record is not None:
        from mounter.linked.place import remove_staging

        remove_staging(record)
        mount_records.remove_record(plan.store, plan.target)


def _stale_record(plan: Plan) -> mount_records.MountRecord | None:
    """Return the record of a mount at the target that has ended. Raises InUse if it exists."""
    record = mount_records.read_record(plan.store, plan.target)
    if record is None:
        return None
    if record.strategy == Strategy.OVERLAY.value:
        visible = source_of(plan.target) in mount_records.all_sources(record)
        in_use = visible or mount_records.may_be_mounted(record)
    else:
        in_use = bool(os.listdir(plan.target))
    if in_use:
        raise InUse(
            f"something is mounted at {quoted(plan.target)}",
            hint=f"unmount it with `cas umount {quoted(plan.target)}`",
        )
    return record


def _try_strategies(plan: Plan, created: Sequence[bytes], source: str, progress: Progress) -> Mount:
    """Mount with the first strategy that works. Raises NoStrategy, CasError, OSError."""
    reasons = list(plan.reasons)
    for candidate in plan.candidates:
        debug("mounting %s by %s", quoted(plan.target), candidate.value)
        try:
            if candidate is Strategy.OVERLAY:
                _mount_overlay(plan, created, source)
            else:
                # Imported late: an overlay needs none of it.
                from mounter.linked.place import place_linked_tree

                place_linked_tree(plan, candidate, created, progress)
            debug("mounted %s by %s", quoted(plan.target), candidate.value)
            count_sysroots([plan], overlaid=candidate is Strategy.OVERLAY)
            return Mount(plan.store, plan.target, candidate, tuple(reasons))
        except StrategyRefused as refusal:
            debug("strategy %s refused: %s", candidate.value, refusal)
            mount_records.remove_record(plan.store, plan.target)
            reasons.append(f"{candidate.value}: {refusal}")
        except BaseException:
            with signals_blocked():
                _roll_back(plan)
            raise
    raise NoStrategy(plan.target, reasons)


def _roll_back(plan: Plan) -> None:
    """Unmount what was mounted before something failed, and remove its record."""
    record = mount_records.read_record(plan.store, plan.target)
    if record is None:
        return
    if record.strategy == Strategy.OVERLAY.value:
        while source_of(plan.target) in mount_records.all_sources(record):
            syscalls.umount(plan.target, syscalls.MNT_DETACH)
    elif os.listdir(plan.target):  # if empty, the staged tree was already removed
        from mounter.linked.place import remove_placed_tree

        remove_placed_tree(plan.store, plan.target, record)
    mount_records.remove_record(plan.store, plan.target)


def _mount_overlay(plan: Plan, created: Sequence[bytes], source: str) -> None:
    with open_directory(plan.target) as target:
        # The record comes first, so that a collector never misses a visible mount.
        try:
            mount_records.write_record(
                plan.store, new_record(plan, Strategy.OVERLAY, created, source=source)
            )
        except OSError as error:
            # Nothing can be removed from a read-only store, so no record is needed.
            if error.errno != errno.EROFS:
                raise
        with upper_directories(plan, source, target) as upper:
            attach_overlay(plan, source, target, upper)
