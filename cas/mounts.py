"""Records of what `cas mount` made, so that `cas umount` knows what to take away."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from cas.boot import boot_id
from cas.errors import StoreDamaged
from cas.leases import Use
from cas.quoting import quoted


@dataclass(frozen=True, slots=True)
class MountRecord:
    """A composition was mounted, or was about to be, at the absolute path `target`.

    `trees` are the digests of its layers, lowest first. `created` are the directories that were
    made for it, outermost first, and `mode`, `uid`, `gid` those of the target before. `staging`
    is where a linked tree was made before it was renamed to the target, else None. `boot_id`,
    `namespace` (inode number) and `source`, which no other mount has, identify a kernel mount.
    """

    target: str
    strategy: str
    trees: list[str]
    created: list[str]
    mode: int
    uid: int
    gid: int
    staging: str | None
    boot_id: str
    namespace: int
    source: str
    since_ns: int


def record_path(store: bytes, target: bytes) -> bytes:
    """Where the record for `target` is kept: a name that is unique to the path."""
    from hashlib import sha256

    return os.path.join(store, b"mounts", sha256(target).hexdigest()[:32].encode())


def write_record(store: bytes, record: MountRecord) -> None:
    """Keep a record, in the place of an older one for the same target. Raises OSError."""
    path = record_path(store, os.fsencode(record.target))
    unfinished = os.path.join(store, b"tmp", f"mount-{os.getpid()}-{os.urandom(8).hex()}".encode())
    with open(unfinished, "w") as file:
        json.dump(asdict(record), file)
    os.rename(unfinished, path)


def read_record(store: bytes, target: bytes) -> MountRecord | None:
    """Return the record for the absolute path `target`, if any. Raises OSError, StoreDamaged."""
    return _read(record_path(store, target))


def remove_record(store: bytes, target: bytes) -> None:
    """Forget the record for `target`, if there is one. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(record_path(store, target))


def mounted_uses(store: bytes) -> Iterator[Use]:
    """Yield what the mounts in this store use. Raises OSError, StoreDamaged.

    A kernel mount ends with the boot that made it; a linked tree lasts as long as its directory.
    """
    directory = os.path.join(store, b"mounts")
    for name in os.listdir(directory):
        record = _read(os.path.join(directory, name))
        if record is not None and _may_live(record):
            yield Use(frozenset(record.trees), f"the mount at {quoted(record.target)}")


def mount_namespace() -> int:
    """Return the inode number of this process's mount namespace (namespaces(7))."""
    return os.stat("/proc/self/ns/mnt").st_ino


def is_mounted(record: MountRecord) -> bool:
    """Tell whether the kernel mount of a record is what is at its target in this namespace."""
    try:
        fd = os.open(record.target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return record.boot_id == boot_id() and _source(fd) == record.source
    finally:
        os.close(fd)


def _source(fd: int) -> str | None:
    """Return the source of the mount that an open file is on (proc(5), fdinfo and mountinfo).

    The mount's id would not do: the kernel gives it to another mount as soon as it is free.
    """
    with open(f"/proc/self/fdinfo/{fd}") as file:
        (number,) = [line.split()[1] for line in file if line.startswith("mnt_id:")]
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        for line in file:
            if line.startswith(number + " "):
                return line.partition(" - ")[2].split()[1]
    return None


def _may_live(record: MountRecord) -> bool:
    if record.strategy != "overlay":
        return os.path.isdir(record.target)
    if record.boot_id != boot_id():
        return False
    return record.namespace != mount_namespace() or is_mounted(record)


def _read(path: bytes) -> MountRecord | None:
    try:
        with open(path) as file:
            return MountRecord(**json.load(file))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StoreDamaged(f"the mount record {quoted(path)} makes no sense: {error}") from error
