"""Mount records: what `cas mount` created, so that `cas umount` can remove it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

from cas.disk.boot import boot_id, boot_time_ns
from cas.disk.leases import Use
from cas.disk.scratch import replace_file, tmp_lock
from cas.errors import InUse, StoreDamaged
from cas.model.manifest import is_digest
from cas.model.strict_json import has_type, parse, record_of
from cas.system.directories import open_directory
from cas.system.file_lock import wait_for_lock
from cas.system.files import read_file, read_sealed, seal
from cas.system.mountinfo import mount_lines, mount_namespace, source_of
from cas.system.text import quoted

_STAGING = re.compile(r"\..*\.cas-[0-9a-f]{16}", re.DOTALL)
CHANGES_SUFFIX = "-changes"
"""The tmpfs below a writable overlay has the source of the overlay with this suffix."""
_PLAN = {
    "store": str,
    "target": str,
    "strategy": str,
    "reasons": list[str],
    "writable": bool,
    "upper": str | None,
    "artifacts": list[dict[str, str]],
    "layers": list[str],
}
"""The fields of a plan except its version."""


class MountRecord(NamedTuple):
    """A composition that is mounted, or about to be, at the absolute path `target`.

    `created` are the directories that were created for it, outermost first; `mode`, `uid` and `gid`
    are those of the target before. `staging` is the path at which a linked tree was built before it
    was renamed to the target, or None. `boot_id`, `namespace` (inode number) and `sources`, which
    are unique, identify a kernel mount; during an update there are two. `by_uid` and `by_pid` are
    its creator. `upper` is the directory that keeps its changes, or None. `plans` has the plan as
    the JSON of `mounter.Plan.encode`, and during an update the other plan that may be mounted.
    """

    target: str
    strategy: str
    created: list[str]
    mode: int
    uid: int
    gid: int
    staging: str | None
    boot_id: str
    namespace: int
    sources: list[str]
    since_ns: int
    by_uid: int
    by_pid: int
    upper: str | None
    plans: tuple[bytes, ...]


def record_path(store: bytes, target: bytes) -> bytes:
    """Return the path of the record for `target`; its name is a hash of the target."""
    from hashlib import sha256

    return os.path.join(store, b"mounts", sha256(target).hexdigest()[:32].encode())


def write_record(store: bytes, record: MountRecord) -> None:
    """Store a record, replacing an older one of the same target. Raises OSError."""
    path = os.path.relpath(record_path(store, os.fsencode(record.target)), store)
    head = record._asdict()
    del head["plans"]
    lines = (json.dumps(head).encode(), *record.plans, b"")
    # A linked tree survives a power failure, an overlay does not.
    durable = record.strategy != "overlay"
    replace_file(store, path, seal(b"\n".join(lines)), durable=durable)


def read_record(store: bytes, target: bytes) -> MountRecord | None:
    """Return the record for the absolute path `target`, or None. Raises OSError, StoreDamaged."""
    return _read(store, os.path.basename(record_path(store, target)))


def plan_documents(store: bytes, record: MountRecord) -> list[dict[str, Any]]:
    """Return the plans of a record in `store`, as documents of `mounter.Plan.encode`.

    The paths in them are not checked. Raises StoreDamaged.
    """
    try:
        documents = list(map(parse, record.plans))
        for document in documents:
            check_plan(document)
    except ValueError as error:
        path = record_path(store, os.fsencode(record.target))
        raise _corrupt(path, error) from error
    return documents


def remove_record(store: bytes, target: bytes) -> None:
    """Remove the record for `target`, if there is one. Raises OSError."""
    try:
        os.unlink(record_path(store, target))
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EROFS:  # a read-only store has no records
            raise


@contextlib.contextmanager
def record_lock(store: bytes, target: bytes) -> Iterator[None]:
    """Lock the record for `target`, and its mount, against changes by other processes.

    Raises InUse, OSError.
    """
    if not os.path.isdir(os.path.join(store, b"tmp")):
        yield  # without a store there is nothing to lock
        return
    path = os.path.join(store, b"tmp/target-" + os.path.basename(record_path(store, target)))
    try:
        with open_directory(store) as store_fd, tmp_lock(store_fd):
            fd = _locked_file(path)
    except (BlockingIOError, FileNotFoundError) as error:
        raise InUse(
            f"another process is changing the mount at {quoted(target)}", hint="try again"
        ) from error
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        yield  # a read-only store cannot change
        return
    try:
        yield
    finally:
        os.unlink(path)
        os.close(fd)


def _locked_file(path: bytes) -> int:
    """Create and lock a file. Raises BlockingIOError, FileNotFoundError if it is locked."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(fd), os.stat(path)):
            raise FileNotFoundError
    except BaseException:
        os.close(fd)
        raise
    return fd


def iter_records(store: bytes) -> Iterator[MountRecord]:
    """Yield the mount records of a store. Raises OSError, StoreDamaged."""
    directory = os.path.join(store, b"mounts")
    for name in sorted(os.listdir(directory)):
        record = _read(store, name)
        if record is not None:
            yield record


def mount_uses(store: bytes) -> Iterator[Use]:
    """Yield the uses of all mounts of a store. Raises OSError, StoreDamaged."""
    for record in iter_records(store):
        if may_be_mounted(record):
            trees: set[str] = set()
            for plan in plan_documents(store, record):
                trees.update(artifact["tree"] for artifact in plan["artifacts"])
                trees.update(map(os.path.basename, plan["layers"]))
            yield Use(frozenset(trees), f"the mount at {quoted(record.target)}")


def all_sources(record: MountRecord) -> list[str]:
    """Return the sources of a record's mounts, and of the tmpfs for changes below them."""
    return [*record.sources, *(source + CHANGES_SUFFIX for source in record.sources)]


def is_mounted(record: MountRecord) -> bool:
    """Return whether the kernel mount of a record is on top at its target in this namespace."""
    return record.boot_id == boot_id() and source_of(record.target) in record.sources


def count_mounted(record: MountRecord) -> int:
    """Return the number of kernel mounts of a record that are stacked at its target."""
    target = os.fsencode(record.target)
    return sum(line.point == target and line.source in record.sources for line in mount_lines())


def may_be_mounted(record: MountRecord) -> bool:
    """Return whether the mount or linked tree of a record may still exist.

    A kernel mount ends with its boot; one in another namespace is invisible here. A linked tree
    exists while its directory does, which this user may not be able to see.
    """
    if record.strategy != "overlay":
        try:
            return stat.S_ISDIR(os.stat(record.target).st_mode)
        except OSError as error:  # an inaccessible target may exist
            return error.errno not in (errno.ENOENT, errno.ENOTDIR)
    return source_may_be_mounted(record.sources, record.namespace, record.boot_id)


def source_may_be_mounted(sources: Container[str], namespace: int, boot: str) -> bool:
    """Return whether a mount with one of these sources may exist in its namespace and boot."""
    if boot != boot_id():
        return False
    if namespace != mount_namespace():
        return True
    return any(line.source in sources for line in mount_lines())


def check_plan(plan: Any) -> None:
    """Raise ValueError if a document is not a plan of `mounter.Plan.encode`.

    The paths in it are not checked.
    """
    if not isinstance(plan, dict):
        raise ValueError("a plan is not an object")
    for name, kind in _PLAN.items():
        if name not in plan or not has_type(plan[name], kind):
            raise ValueError(f"its {name} is {plan.get(name)!a:.40}")
    if not has_type(plan.get("entries", 0), int):
        raise ValueError(f"its entries are {plan['entries']!a:.40}")
    for artifact in plan["artifacts"]:
        if artifact.keys() != {"id", "tree"} or not is_digest(artifact["tree"]):
            raise ValueError("its artifacts are not pairs of an ID and a tree")


def _read(store: bytes, name: bytes) -> MountRecord | None:
    path = os.path.join(store, b"mounts", name)
    try:
        head, *plans = read_sealed(path).split(b"\n")
        if len(plans) not in (2, 3) or plans.pop():
            raise ValueError("it does not have one line and one or two plans")
        record = record_of(MountRecord, parse(head), plans=tuple(plans))
        if os.path.basename(record_path(store, os.fsencode(record.target))) != name:
            raise ValueError("it belongs to another target")
        _check(record)
    except FileNotFoundError:
        return None
    except ValueError as error:
        if _is_truncated(path):
            return None
        raise _corrupt(path, error) from error
    return record


def _is_truncated(path: bytes) -> bool:
    """Return whether a power failure truncated a record: it has no end, and is older than the boot.

    Only an overlay's record is not written durably, and the overlay is gone with its boot.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        truncated = not read_file(path).endswith(b"\n")
        return truncated and os.lstat(path).st_mtime_ns < boot_time_ns()
    return False


def remove_truncated_records(store: bytes) -> None:
    """Delete the records that a power failure truncated. Raises OSError."""
    with open_directory(store) as store_fd, open_directory(b"tmp", store_fd) as tmp:
        wait_for_lock(tmp, fcntl.LOCK_EX, b"tmp")  # no process is writing a new record
        for name in os.listdir(os.path.join(store, b"mounts")):
            path = os.path.join(store, b"mounts", name)
            if _is_truncated(path):
                os.unlink(path)


def _corrupt(path: bytes, reason: ValueError) -> StoreDamaged:
    return StoreDamaged(
        f"the mount record {quoted(path)} is corrupt: {reason}",
        hint="if nothing of this store is mounted there (`findmnt`), delete the file",
    )


def _check(record: MountRecord) -> None:
    """Raise ValueError if a record names paths outside of its target and its own files.

    `cas umount` removes the paths that a record names.
    """
    target = record.target
    if os.path.abspath(target) != target or "\0" in target:
        raise ValueError("its target is not a normalised absolute path")
    if record.strategy not in ("overlay", "hardlink", "copy") or record.mode > 0o7777:
        raise ValueError("its strategy or mode is invalid")
    if any(os.path.commonpath([target, directory]) != directory for directory in record.created):
        raise ValueError("a directory created for it does not lead to its target")
    if record.staging is not None:
        parent, name = os.path.split(record.staging)
        if parent != os.path.dirname(target) or not _STAGING.fullmatch(name):
            raise ValueError("its staging path is not beside its target")
