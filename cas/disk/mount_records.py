"""Records of what `cas mount` made, so that `cas umount` knows what to take away."""

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

from cas.disk.boot import began_ns, boot_id
from cas.disk.leases import Use
from cas.disk.scratch import replace_file, tmp_lock
from cas.errors import InUse, StoreDamaged
from cas.model.manifest import is_digest
from cas.model.strict_json import has_type, parse, record_of
from cas.system.directories import open_directory
from cas.system.files import read_file, read_sealed, seal
from cas.system.mountinfo import mount_lines, mount_namespace, source_of
from cas.system.text import quoted

_STAGING = re.compile(r"\..*\.cas-[0-9a-f]{16}", re.DOTALL)
CHANGES = "-changes"
"""What is added to the source of a writable overlay for that of the tmpfs below it."""
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
"""What a plan consists of besides its version."""


class MountRecord(NamedTuple):
    """A composition was mounted, or was about to be, at the absolute path `target`.

    `created` are the directories that were made for it, outermost first, and `mode`, `uid`, `gid`
    those of the target before. `staging` is where a linked tree was made before it was renamed to
    the target, else None. `boot_id`, `namespace` (inode number) and `sources`, which no other
    mount has, identify a kernel mount: while it is being exchanged there are two. `by_uid` and
    `by_pid` say who made it. `upper` is the directory that takes its changes, if they are to stay.
    `plans` is what was carried out, as the JSON of
    `mounter.Plan.encode`; while it is being exchanged, it is followed by what else may be there.
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
    """Where the record for `target` is kept: a name that is unique to the path."""
    from hashlib import sha256

    return os.path.join(store, b"mounts", sha256(target).hexdigest()[:32].encode())


def write_record(store: bytes, record: MountRecord) -> None:
    """Keep a record, in the place of an older one for the same target. Raises OSError."""
    path = os.path.relpath(record_path(store, os.fsencode(record.target)), store)
    head = record._asdict()
    del head["plans"]
    lines = (json.dumps(head).encode(), *record.plans, b"")
    # A linked tree outlasts a power failure, and an overlay does not.
    durable = record.strategy != "overlay"
    replace_file(store, path, seal(b"\n".join(lines)), durable=durable)


def read_record(store: bytes, target: bytes) -> MountRecord | None:
    """Return the record for the absolute path `target`, if any. Raises OSError, StoreDamaged."""
    return _read(store, os.path.basename(record_path(store, target)))


def plan_documents(store: bytes, record: MountRecord) -> list[dict[str, Any]]:
    """Return the plans of a record in `store`, as `mounter.Plan.encode` gives them.

    What the paths in them are is not looked at. Raises StoreDamaged.
    """
    try:
        documents = list(map(parse, record.plans))
        for document in documents:
            check_plan(document)
    except ValueError as error:
        path = record_path(store, os.fsencode(record.target))
        raise _nonsense(path, error) from error
    return documents


def remove_record(store: bytes, target: bytes) -> None:
    """Forget the record for `target`, if there is one. Raises OSError."""
    try:
        os.unlink(record_path(store, target))
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EROFS:  # where there are none
            raise


@contextlib.contextmanager
def record_lock(store: bytes, target: bytes) -> Iterator[None]:
    """Keep others from changing the record for `target`, or what it stands for, meanwhile.

    Raises InUse, OSError.
    """
    if not os.path.isdir(os.path.join(store, b"tmp")):
        yield  # where there is no store, there is nothing to change
        return
    path = os.path.join(store, b"tmp/target-" + os.path.basename(record_path(store, target)))
    try:
        with open_directory(store) as store_fd, tmp_lock(store_fd):
            fd = _locked_file(path)
    except (BlockingIOError, FileNotFoundError) as error:
        raise InUse(
            f"another process is changing what is mounted at {quoted(target)}", hint="try again"
        ) from error
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        yield  # nor where it cannot be written
        return
    try:
        yield
    finally:
        os.unlink(path)
        os.close(fd)


def _locked_file(path: bytes) -> int:
    """Make a file and lock it. Raises BlockingIOError, FileNotFoundError if somebody has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(fd), os.stat(path)):
            raise FileNotFoundError
    except BaseException:
        os.close(fd)
        raise
    return fd


def all_records(store: bytes) -> Iterator[MountRecord]:
    """Yield the records of a store. Raises OSError, StoreDamaged."""
    directory = os.path.join(store, b"mounts")
    for name in sorted(os.listdir(directory)):
        record = _read(store, name)
        if record is not None:
            yield record


def mounted_uses(store: bytes) -> Iterator[Use]:
    """Yield what the mounts in this store use. Raises OSError, StoreDamaged."""
    for record in all_records(store):
        if may_be_mounted(record):
            trees: set[str] = set()
            for plan in plan_documents(store, record):
                trees.update(artifact["tree"] for artifact in plan["artifacts"])
                trees.update(map(os.path.basename, plan["layers"]))
            yield Use(frozenset(trees), f"the mount at {quoted(record.target)}")


def all_sources(record: MountRecord) -> list[str]:
    """Return the sources of a record's mounts, and of the tmpfs below that takes changes."""
    return [*record.sources, *(source + CHANGES for source in record.sources)]


def is_mounted(record: MountRecord) -> bool:
    """Tell whether the kernel mount of a record is what is at its target in this namespace."""
    return record.boot_id == boot_id() and source_of(record.target) in record.sources


def count_mounted(record: MountRecord) -> int:
    """Return how many kernel mounts of a record are at its target, one on the other."""
    target = os.fsencode(record.target)
    return sum(line.point == target and line.source in record.sources for line in mount_lines())


def may_be_mounted(record: MountRecord) -> bool:
    """Tell whether a record may stand for something that is there.

    A kernel mount ends with the boot that made it; one of another namespace cannot be seen. A
    linked tree lasts as long as its directory, which another user may keep from being seen.
    """
    if record.strategy != "overlay":
        try:
            return stat.S_ISDIR(os.stat(record.target).st_mode)
        except OSError as error:  # where it cannot be looked at, it may be there
            return error.errno not in (errno.ENOENT, errno.ENOTDIR)
    return source_may_live(record.sources, record.namespace, record.boot_id)


def source_may_live(sources: Container[str], namespace: int, boot: str) -> bool:
    """Tell whether a mount of these sources, made in a mount namespace and boot, may be there."""
    if boot != boot_id():
        return False
    if namespace != mount_namespace():
        return True
    return any(line.source in sources for line in mount_lines())


def check_plan(plan: Any) -> None:
    """Raise ValueError if what was read is not what `mounter.Plan.encode` gives.

    What the paths in it are is not looked at.
    """
    if not isinstance(plan, dict):
        raise ValueError("a plan of it is no object")
    for name, kind in _PLAN.items():
        if name not in plan or not has_type(plan[name], kind):
            raise ValueError(f"its {name} is {plan.get(name)!a:.40}")
    if not has_type(plan.get("entries", 0), int):
        raise ValueError(f"its entries are {plan['entries']!a:.40}")
    for artifact in plan["artifacts"]:
        if artifact.keys() != {"id", "tree"} or not is_digest(artifact["tree"]):
            raise ValueError("its artifacts are not each an id and a tree")


def _read(store: bytes, name: bytes) -> MountRecord | None:
    path = os.path.join(store, b"mounts", name)
    try:
        head, *plans = read_sealed(path).split(b"\n")
        if len(plans) not in (2, 3) or plans.pop():
            raise ValueError("it is not a line of its own and one or two plans")
        record = record_of(MountRecord, parse(head), plans=tuple(plans))
        if os.path.basename(record_path(store, os.fsencode(record.target))) != name:
            raise ValueError("it is that of another target")
        _check(record)
    except FileNotFoundError:
        return None
    except ValueError as error:
        if _is_cut(path):
            return None
        raise _nonsense(path, error) from error
    return record


def _is_cut(path: bytes) -> bool:
    """Tell whether a power failure has cut a record: it has no end, and is of an earlier boot.

    It was that of an overlay then, which went with it: others are on the disk before they count.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        cut = not read_file(path).endswith(b"\n")
        return cut and os.lstat(path).st_mtime_ns < began_ns()
    return False


def remove_cut(store: bytes) -> None:
    """Delete the records that a power failure has cut. Raises OSError."""
    with open_directory(store) as store_fd, open_directory(b"tmp", store_fd) as tmp:
        fcntl.flock(tmp, fcntl.LOCK_EX)  # nobody is writing a new one
        for name in os.listdir(os.path.join(store, b"mounts")):
            path = os.path.join(store, b"mounts", name)
            if _is_cut(path):
                os.unlink(path)


def _nonsense(path: bytes, why: ValueError) -> StoreDamaged:
    return StoreDamaged(
        f"the mount record {quoted(path)} is corrupt: {why}",
        hint="if nothing of this store is mounted there any more (`findmnt`), delete that file",
    )


def _check(record: MountRecord) -> None:
    """Raise ValueError if a record could lead to anything but its target and what is its.

    What a record calls its own gets removed.
    """
    target = record.target
    if os.path.abspath(target) != target or "\0" in target:
        raise ValueError("its target is no absolute path in its shortest form")
    if record.strategy not in ("overlay", "hardlink", "copy") or record.mode > 0o7777:
        raise ValueError("its strategy or mode is none")
    if any(os.path.commonpath([target, made]) != made for made in record.created):
        raise ValueError("what was created for it does not lead to its target")
    if record.staging is not None:
        parent, name = os.path.split(record.staging)
        if parent != os.path.dirname(target) or not _STAGING.fullmatch(name):
            raise ValueError("it was not made beside its target")
