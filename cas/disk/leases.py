"""Leases: trees in use by running processes.

A lease is a file in `leases/` of the store that its owner keeps locked (flock(2)). The kernel
releases the lock when the last process with the descriptor ends, in any way.
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
from cas.system.debug_log import debug
from cas.system.directories import open_directory
from cas.system.files import open_file, seal, unseal
from cas.system.text import quoted


class Use(NamedTuple):
    """A use of `trees`; `what` describes the user of them in a message."""

    trees: frozenset[str]
    what: str


class LeaseRecord(NamedTuple):
    """The content of a lease: the process `pid` of the user `uid` uses `trees` since `since_ns`.

    `artifacts` are the pairs of ID and tree of its composition, lowest first; `purpose` is text for
    people. `pid` is the process ID in the process's own PID namespace. The lease of a put has no
    trees, since its tree does not exist yet.
    """

    trees: list[str]
    artifacts: list[list[str]]
    purpose: str
    pid: int
    uid: int
    since_ns: int


class NoLease(CasError):
    """This user cannot write to the store, and so cannot mark artifacts as in use."""

    def __init__(self, store: bytes) -> None:
        super().__init__(
            f"cannot mark artifacts as in use: no write permission for the store {quoted(store)}",
            hint="ask the owner to share it with a group (`cas init --shared`)",
        )


class Lease(Closeable):
    """A held lease. It owns its descriptor `fd`, which survives fork but not exec.

    The lease lasts until the process that took it closes it, or no process has the descriptor. A
    child that closes it only drops its own descriptor.

    `name` is unique. `fd` is -1 after `close`, and always on a read-only file system, where nothing
    can be removed.
    """

    def __init__(
        self,
        store: bytes,
        trees: Iterable[str],
        artifacts: Iterable[tuple[str, str]] = (),
        purpose: str = "",
    ) -> None:
        """Take a lease on `trees` in the store at the absolute path `store`.

        The other arguments are for people; see LeaseRecord. Raises NoLease, OSError.
        """
        self.name = f"{os.getpid()}-{os.urandom(8).hex()}"
        self.fd = -1
        self._owner = os.getpid()
        self._path = os.path.join(store, b"leases", self.name.encode())
        temporary = os.path.join(store, b"tmp/lease-" + self.name.encode())
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
                self.fd = locked_file(temporary, store_fd)
        except MayNotWrite as error:
            raise NoLease(store) from error
        except OSError as error:
            if error.errno == errno.EROFS:
                return
            raise
        try:
            with open(self.fd, "wb", closefd=False) as file:
                file.write(seal(json.dumps(record._asdict())))
            os.rename(temporary, self._path)
        except BaseException as error:
            for path in (temporary, self._path):  # a signal may have come after the rename
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            os.close(self.fd)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = os.fsdecode(temporary)
            raise
        debug("took the lease %s on %d trees", self.name, len(record.trees))

    def close(self) -> None:
        """End the lease. Calling it again does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            try:
                if os.getpid() == self._owner:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self._path)
                    debug("ended the lease %s", self.name)
            finally:
                os.close(fd)


def read_lease(store: bytes, name: str) -> LeaseRecord | None:
    """Return the content of a lease that is held, or None. Raises OSError, StoreDamaged."""
    with open_directory(store) as store_fd, open_directory(b"leases", store_fd) as directory:
        return _read(os.path.join(store, b"leases", os.fsencode(name)), directory)


def _read(path: bytes, directory: int) -> LeaseRecord | None:
    try:
        with open(open_file(os.path.basename(path), directory), "rb") as file:
            if not _held(file.fileno()):
                return None
            record = record_of(LeaseRecord, parse(unseal(file.read())))
        if not all(len(pair) == 2 and is_digest(pair[1]) for pair in record.artifacts):
            raise ValueError("its artifacts are not pairs of an ID and a tree")
        return record
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreDamaged(f"the lease {quoted(path)} is corrupt: {error}") from error


def held_leases(store: bytes) -> Iterator[LeaseRecord]:
    """Yield the leases that are held; delete stale ones."""
    with open_directory(store) as store_fd, open_directory(b"leases", store_fd) as directory:
        for name in os.listdir(directory):
            record = _read(os.path.join(store, b"leases", os.fsencode(name)), directory)
            if record is not None:
                yield record
                continue
            with contextlib.suppress(OSError):  # this user may not write there
                os.unlink(name, dir_fd=directory)
                debug("deleted the stale lease %s", name)


def oldest_put_ns(store: bytes) -> int:
    """Return the start (nanoseconds since 1970) of the oldest running put, or the current time.

    A lease without trees is that of a put. Raises OSError, StoreDamaged.
    """
    now = time.time_ns()
    return min((lease.since_ns for lease in held_leases(store) if not lease.trees), default=now)


def lease_uses(store: bytes) -> Iterator[Use]:
    """Yield the uses of all held leases. Raises OSError, StoreDamaged."""
    for lease in held_leases(store):
        yield Use(frozenset(lease.trees), f"process {lease.pid}")


def _held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
