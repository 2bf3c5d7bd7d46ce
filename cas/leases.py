"""Leases: which trees are in use now, by living processes.

A lease is a file in the store's `leases/` that its owner holds locked (flock(2)). The lock ends
with the last process that has the descriptor, however that process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cas.closing import Closing
from cas.manifest import Digest


@dataclass(frozen=True, slots=True)
class Use:
    """Somebody uses `trees`; `what` says who, for a message."""

    trees: frozenset[str]
    what: str


class Lease(Closing):
    """A held lease. Owns its descriptor `fd`, which a forked child keeps, an exec'ed one not."""

    def __init__(self, store: bytes, trees: Iterable[Digest]) -> None:
        """Take a lease on `trees` in the store at the absolute path `store`. Raises OSError."""
        name = f"{os.getpid()}-{os.urandom(8).hex()}".encode()
        self._path = os.path.join(store, b"leases", name)
        unfinished = os.path.join(store, b"tmp", b"lease-" + name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.fd = os.open(unfinished, flags, 0o644)
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        lease = {"trees": list(trees), "pid": os.getpid(), "since": time.time_ns()}
        os.write(self.fd, json.dumps(lease).encode())
        os.rename(unfinished, self._path)

    def close(self) -> None:
        """End the lease. Does nothing the second time."""
        if self.fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            os.close(self.fd)
            self.fd = -1


def live_leases(store: bytes) -> Iterator[Use]:
    """Yield the leases that somebody holds; delete those whose holders are dead."""
    directory = os.path.join(store, b"leases")
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        try:
            with open(path, "rb") as file:
                if _held(file.fileno()):
                    lease = json.load(file)
                    yield Use(frozenset(lease["trees"]), f"process {lease['pid']}")
                else:
                    os.unlink(path)
        except FileNotFoundError:
            continue


def _held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
