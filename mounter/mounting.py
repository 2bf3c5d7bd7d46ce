"""`cas mount` and `cas umount`: a composition at a directory, and the way back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cas import dirs, mounts
from cas.boot import boot_id
from cas.dirs import OPEN_DIRECTORY, opened
from cas.errors import CasError, InputRefused, InUse
from cas.manifest import Digest
from cas.quoting import quoted
from mounter import linktree, syscalls
from mounter.overlay import make_overlay
from mounter.plan import NoStrategy, Plan, Strategy, StrategyRefused

if TYPE_CHECKING:
    from cas.store import Composition

StrPath = str | bytes | os.PathLike[str]


class NotMounted(CasError):
    """`cas mount` made nothing at a path, as far as this store knows."""


@dataclass(frozen=True, slots=True)
class Mount:
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


def mount(composition: Composition, target: StrPath, strategy: Strategy = Strategy.AUTO) -> Mount:
    """Make a composition appear at the directory `target`, read-only.

    `target` is made, with its parents, if it is missing, and must be empty otherwise. It stays
    until `umount`, whatever becomes of this process; so the composition may be closed then.

    Raises InputRefused (an unfit target), InUse (something is there already), NoStrategy,
    StoreDamaged, OSError.
    """
    path = _absolute(target)
    plan = Plan(composition.store, composition.trees, path)
    check_target(plan)
    created = make_directories(path)
    try:
        with _claimed(path):
            _clear_stale(plan)
            _refuse_full(path)
            return _mount_by_first(plan, strategy.candidates, created)
    except BaseException:
        remove_directories(created)
        raise


@contextlib.contextmanager
def mounted(
    composition: Composition, target: StrPath, strategy: Strategy = Strategy.AUTO
) -> Iterator[Mount]:
    """`mount` for the length of a `with` block, which gets the Mount."""
    made = mount(composition, target, strategy)
    try:
        yield made
    finally:
        made.umount()


def umount(store: StrPath, target: StrPath) -> Strategy:
    """Take away what `mount` made at `target` from the store in the directory `store`.

    Directories that `mount` made go too, if they are empty. Returns the strategy it was made by.
    Raises NotMounted, InUse (busy, or something in it that `mount` did not make; nothing is
    removed then), StoreDamaged, OSError.
    """
    root = os.path.realpath(os.fsencode(store))
    path = _absolute(target)
    record = mounts.read_record(root, path)
    if record is None:
        raise NotMounted(
            f"nothing from the store {quoted(root)} is mounted at {quoted(path)}",
            hint="give the TARGET and the --store that `cas mount` was given",
        )
    if record.strategy == Strategy.OVERLAY.value:
        _umount_overlay(path, record)
    else:
        _remove_linktree(root, path, record)
    mounts.remove_record(root, path)
    remove_directories([os.fsencode(directory) for directory in record.created])
    return Strategy(record.strategy)


def check_target(plan: Plan) -> None:
    """Refuse a target that is no directory, or is in, above or the same as the store.

    Raises InputRefused.
    """
    where = quoted(plan.target)
    if os.path.lexists(plan.target) and not os.path.isdir(plan.target):
        raise InputRefused(f"{where} is not a directory", hint="give a directory as the target")
    if os.path.commonpath([plan.target, plan.store]) in (plan.target, plan.store):
        raise InputRefused(
            f"{where} and the store {quoted(plan.store)} are one in the other",
            hint="give a target that is outside of the store and does not hold it",
        )


def make_directories(path: bytes) -> list[bytes]:
    """Make a directory and its missing parents; return those made, outermost first."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    missing.reverse()
    for number, directory in enumerate(missing):
        try:
            os.mkdir(directory)
        except OSError:
            remove_directories(missing[:number])
            raise
    return missing


def remove_directories(made: Sequence[bytes]) -> None:
    """Remove what `make_directories` made, as far as it is empty."""
    for directory in reversed(made):
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _absolute(target: StrPath) -> bytes:
    """Resolve all but the last part, so that a symbolic link as the target is seen as one."""
    path = os.path.abspath(os.fsencode(target))
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


@contextlib.contextmanager
def _claimed(target: bytes) -> Iterator[None]:
    """Keep other processes from mounting at, or unmounting, a directory meanwhile."""
    try:
        fd = os.open(target, OPEN_DIRECTORY)
    except NotADirectoryError as error:
        raise InputRefused(
            f"{quoted(target)} is a symbolic link", hint="give the directory that it leads to"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InUse(
            f"another process is mounting or unmounting {quoted(target)}", hint="try again"
        ) from error
    finally:
        os.close(fd)


def _clear_stale(plan: Plan) -> None:
    """Refuse a target where something is mounted; clear away what a dead mount left there."""
    record = mounts.read_record(plan.store, plan.target)
    if record is None:
        return
    if record.strategy == Strategy.OVERLAY.value:
        here = record.namespace == mounts.mount_namespace()
        alive = mounts.is_mounted(record) or (record.boot_id == boot_id() and not here)
    else:
        alive = bool(os.listdir(plan.target))
    if alive:
        raise InUse(
            f"something is mounted at {quoted(plan.target)}",
            hint=f"`cas umount {quoted(plan.target)}` takes it away",
        )
    _remove_staging(record)
    mounts.remove_record(plan.store, plan.target)


def _remove_staging(record: mounts.MountRecord) -> None:
    if record.staging is not None:
        parent, name = os.path.split(os.fsencode(record.staging))
        with opened(parent) as fd:
            dirs.remove_tree(name, fd)


def _refuse_full(target: bytes) -> None:
    with os.scandir(target) as entries:
        if next(entries, None) is not None:
            raise InputRefused(
                f"{quoted(target)} is not empty", hint="give an empty or a new directory"
            )


def _mount_by_first(plan: Plan, candidates: Sequence[Strategy], created: Sequence[bytes]) -> Mount:
    reasons: list[str] = []
    for candidate in candidates:
        try:
            if candidate is Strategy.OVERLAY:
                _mount_overlay(plan, created)
            else:
                _place_linktree(plan, candidate, created)
            return Mount(plan.store, plan.target, candidate, tuple(reasons))
        except StrategyRefused as refusal:
            mounts.remove_record(plan.store, plan.target)
            reasons.append(f"{candidate.value}: {refusal}")
        except BaseException:
            mounts.remove_record(plan.store, plan.target)
            raise
    raise NoStrategy(plan.target, reasons)


def _record(
    plan: Plan,
    strategy: Strategy,
    created: Sequence[bytes],
    *,
    source: str = "",
    staging: bytes | None = None,
) -> mounts.MountRecord:
    before = os.stat(plan.target)
    return mounts.MountRecord(
        target=os.fsdecode(plan.target),
        strategy=strategy.value,
        trees=[str(tree) for tree in plan.trees],
        created=[os.fsdecode(directory) for directory in created],
        mode=stat.S_IMODE(before.st_mode),
        uid=before.st_uid,
        gid=before.st_gid,
        staging=None if staging is None else os.fsdecode(staging),
        boot_id=boot_id(),
        namespace=mounts.mount_namespace(),
        source=source,
        since_ns=time.time_ns(),
    )


def _mount_overlay(plan: Plan, created: Sequence[bytes]) -> None:
    source = f"cas-{os.urandom(8).hex()}"
    made = make_overlay(plan, source)
    try:
        target = os.open(plan.target, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            record = _record(plan, Strategy.OVERLAY, created, source=source)
            mounts.write_record(plan.store, record)
            syscalls.move_mount(made, target, plan.target)
        except PermissionError as error:
            raise StrategyRefused(f"the kernel does not let this user mount ({error})") from error
        finally:
            os.close(target)
    finally:
        os.close(made)


def _umount_overlay(path: bytes, record: mounts.MountRecord) -> None:
    if not mounts.is_mounted(record):
        if record.boot_id == boot_id() and record.namespace != mounts.mount_namespace():
            raise InUse(
                f"{quoted(path)} was mounted in another mount namespace than this one",
                hint="unmount it there; it ends with the last process of that namespace",
            )
        return
    try:
        syscalls.umount(path)
    except OSError as error:
        raise InUse(
            f"cannot unmount {quoted(path)}: {error.strerror}",
            hint="end what runs or stands in it (`fuser -vm` shows it) and try again",
        ) from error


def _place_linktree(plan: Plan, strategy: Strategy, created: Sequence[bytes]) -> None:
    """Make the tree beside the target, and rename it into place."""
    parent_path, name = os.path.split(plan.target)
    beside = b"." + name[:200] + b".cas-" + os.urandom(8).hex().encode()
    record = _record(plan, strategy, created, staging=os.path.join(parent_path, beside))
    mounts.write_record(plan.store, record)
    with opened(parent_path) as parent:
        os.mkdir(beside, 0o700, dir_fd=parent)
        try:
            with opened(beside, parent) as root:
                linktree.make_tree(plan, strategy, plan.content(), root)
                if os.fstat(root).st_uid != record.uid:
                    os.fchown(root, record.uid, record.gid)
            os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            dirs.remove_tree(beside, parent)
            raise


def _remove_linktree(store: bytes, path: bytes, record: mounts.MountRecord) -> None:
    if not os.path.lexists(path):
        _remove_staging(record)
        return
    plan = Plan(store, tuple(Digest(tree) for tree in record.trees), path)
    with _claimed(path), opened(path) as root:
        _remove_staging(record)
        linktree.remove_tree(plan, plan.content(), root)
        os.fchmod(root, record.mode)
