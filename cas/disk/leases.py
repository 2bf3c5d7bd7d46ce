"""Leases: which trees are in use now, by living processes.

A lease is a file in the store's `leases/` that its owner holds locked (flock(2)). The lock ends
with the last process that has the descriptor, however that process ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cas.disk.scratch import MayNotWrite, locked_file
from cas.errors import CasError, StoreDamaged
from cas.model.manifest import is_digest
from cas.model.strict_json import parse, record_of
from cas.system.closeable import Closeable
from cas.system.directories import open_directory
from cas.system.files import open_file, seal, unseal
from cas.system.text import quoted


class Use(NamedTuple):
    """Somebody uses `trees`; `what` says who, for a message."""

    trees: frozenset[str]
    what: str


class LeaseRecord(NamedTuple):
    """What a lease says: `trees` are used since `since_ns` by process `pid` of user `uid`.

    `artifacts` are the pairs of signature and tree of its composition, lowest first; `purpose`
    is text for a person. The process id is that in the process's own PID namespace. Who puts has
    a lease on no tree: what it brings is not named by one yet.
    """

    trees: list[str]
    artifacts: list[list[str]]
    purpose: str
    pid: int
    uid: int
    since_ns: int


class NoLease(CasError):
    """A store may not be written by this user, so that nothing of it can be held in use."""

    def __init__(self, store: bytes) -> None:
        super().__init__(
            f"this user may not write to the store {quoted(store)}, where it has to say that it "
            "uses something, lest it be removed",
            hint="its owner can let a group share it: `cas init --shared`",
        )


class Lease(Closeable):
    """A held lease. Owns its descriptor `fd`, which a forked child keeps, an exec'ed one not.

    So it lasts as long as one of them has it, or until who took it closes it: a child that closes
    it only lets go of its own hold.

    `name` is unique. `fd` is -1 when it was closed, and from the beginning if the store is on a
    read-only file system, where nobody can remove anything.
    """

    def __init__(
        self,
        store: bytes,
        trees: Iterable[str],
        artifacts: Iterable[tuple[str, str]] = (),
        purpose: str = "",
    ) -> None:
        """Take a lease on `trees` in the store at the absolute path `store`.

        Raises NoLease, OSError.

        What it says besides is for those who ask; see LeaseRecord.
        """
        self.name = f"{os.getpid()}-{os.urandom(8).hex()}"
        self.fd = -1
        self._owner = os.getpid()
        self._path = os.path.join(store, b"leases", self.name.encode())
        unfinished = os.path.join(store, b"tmp/lease-" + self.name.encode())
        record = LeaseRecord(
            trees=sorted(trees),
            artifacts=list(map(list, artifacts)),
            purpose=purpose,
            pid=os.getpid(),
            uid=os.geteuid(),
            since_ns=time.time_ns(),
        )
        try:
            with open_directory(store) as store_fd:
                self.fd = locked_file(unfinished, store_fd)
        except MayNotWrite as error:
            raise NoLease(store) from error
        except OSError as error:
            if error.errno == errno.EROFS:
                return
            raise
        try:
            with open(self.fd, "wb", closefd=False) as file:
                file.write(seal(json.dumps(record._asdict())))
            os.rename(unfinished, self._path)
        except BaseException as error:
            for path in (unfinished, self._path):  # a signal can have come right after the rename
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            os.close(self.fd)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = os.fsdecode(unfinished)
            raise

    def close(self) -> None:
        """End the lease. Does nothing the second time."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            try:
                if os.getpid() == self._owner:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self._path)
            finally:
                os.close(fd)


def read_lease(store: bytes, name: str) -> LeaseRecord | None:
    """Return what a lease says, if it is held. Raises OSError, StoreDamaged."""
    with open_directory(store) as store_fd, open_directory(b"leases", store_fd) as directory:
        return _read(os.path.join(store, b"leases", os.fsencode(name)), directory)


def _read(path: bytes, directory: int) -> LeaseRecord | None:
    try:
        with open(open_file(os.path.basename(path), directory), "rb") as file:
            if not _held(file.fileno()):
                return None
            record = record_of(LeaseRecord, parse(unseal(file.read())))
        if not all(len(pair) == 2 and is_digest(pair[1]) for pair in record.artifacts):
            raise ValueError("its artifacts are not each an ID and a tree")
        return record
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreDamaged(f"the lease {quoted(path)} is corrupt: {error}") from error


def held_leases(store: bytes) -> Iterator[LeaseRecord]:
    """Yield the leases that somebody holds; delete those whose holders are dead."""
    with open_directory(store) as store_fd, open_directory(b"leases", store_fd) as directory:
        for name in os.listdir(directory):
            record = _read(os.path.join(store, b"leases", os.fsencode(name)), directory)
            if record is not None:
                yield record
                continue
            with contextlib.suppress(OSError):  # left to somebody who may write there
                os.unlink(name, dir_fd=directory)


def oldest_put_ns(store: bytes) -> int:
    """Return since when puts are under way, in nanoseconds since 1970; now, if there are none.

    The lease of a put names no tree. Raises OSError, StoreDamaged.
    """
    now = time.time_ns()
    return min((lease.since_ns for lease in held_leases(store) if not lease.trees), default=now)


def live_leases(store: bytes) -> Iterator[Use]:
    """Yield what those use who hold a lease. Raises OSError, StoreDamaged."""
    for lease in held_leases(store):
        yield Use(frozenset(lease.trees), f"process {lease.pid}")


def _held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
