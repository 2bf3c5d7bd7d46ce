"""Unmounts what `mounter.mounting` mounted."""

from __future__ import annotations

import errno
import os

from cas.disk import mount_records
from cas.errors import CasError, InUse
from cas.system.debug_log import debug
from cas.system.mountinfo import mount_namespace, source_of
from cas.system.oserrors import adding_path
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.signals import signals_blocked
from cas.system.text import quoted
from mounter import syscalls
from mounter.overlay.upper import clear_upper_note
from mounter.plan import Strategy
from mounter.targets import StrPath, remove_directories, resolve_target


class NotMounted(CasError):
    """`cas mount` mounted nothing at a path, according to the records of a store."""

    def __init__(self, store: bytes, target: bytes) -> None:
        super().__init__(
            f"nothing from the store {quoted(store)} is mounted at {quoted(target)}",
            hint="give the same TARGET and --store as to `cas mount`",
        )


def umount(
    store: StrPath, target: StrPath, *, forget: bool = False, progress: Progress = NO_PROGRESS
) -> Strategy:
    """Unmount what `mount` mounted at `target` from the store in the directory `store`.

    Directories that `mount` made are removed too, if they are empty. `forget` declares a mount
    in another mount namespace, which cannot be inspected from here, to have ended with that
    namespace; its artifacts are no longer in use then. `progress` counts the removed names of a
    linked tree. Returns the strategy that the mount was made with.

    Raises NotMounted, InUse (busy, or it holds something that `mount` did not make; then nothing
    is removed), StoreDamaged, OSError.
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
            # Imported late: an overlay needs none of it.
            from mounter.linked.place import remove_placed_tree

            remove_placed_tree(root, path, record, progress)
        debug("unmounted %s, made by %s", quoted(path), record.strategy)
        with signals_blocked():
            mount_records.remove_record(root, path)
            remove_directories([os.fsencode(directory) for directory in record.created])
    return Strategy(record.strategy)


def refuse_unreachable_mount(record: mount_records.MountRecord) -> None:
    """Refuse a mount that may exist, but is not visible at its target. Raises InUse."""
    where = quoted(record.target)
    if not mount_records.may_be_mounted(record):
        return
    if record.namespace != mount_namespace():
        raise InUse(
            f"{where} was mounted in another mount namespace than this one",
            hint="unmount it there; if that namespace has no processes any more, "
            f"run `cas umount --forget {where}`",
        )
    raise InUse(
        f"the mount at {where} is covered by another mount, or was moved",
        hint="unmount the other one (`findmnt` shows it) and try again",
    )


def is_unrecorded_mount(store: bytes, path: bytes) -> bool:
    """Return whether a mount at a path is from this store, which is on a read-only file system."""
    read_only = os.path.isdir(store) and os.statvfs(store).f_flag & os.ST_RDONLY
    source = source_of(path) or ""
    return bool(read_only) and source.startswith("cas-") and os.path.ismount(path)


def _umount_overlay(path: bytes, record: mount_records.MountRecord) -> None:
    source = source_of(path)
    if source not in record.sources:
        refuse_unreachable_mount(record)
    # A writable overlay covers its tmpfs, and a killed update leaves two overlays.
    while source in mount_records.all_sources(record):
        _umount_once(path)
        source = source_of(path)


def _umount_unrecorded(store: bytes, path: bytes) -> Strategy:
    """Unmount an overlay from a store on a read-only file system, which has no records."""
    source = source_of(path) or ""
    if not is_unrecorded_mount(store, path):
        raise NotMounted(store, path)
    while source_of(path) in (source, source + mount_records.CHANGES_SUFFIX):
        _umount_once(path)
    return Strategy.OVERLAY


def _umount_once(path: bytes) -> None:
    try:
        syscalls.umount(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise InUse(
            f"cannot unmount {quoted(path)}: {error.strerror}",
            hint="end the processes that use it (`fuser -vm` shows them) and try again",
        ) from error
