"""A private directory in the store's `tmp/`, for as long as one operation lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass

from cas.dirs import OPEN_DIRECTORY, remove_tree


@dataclass(frozen=True, slots=True)
class Scratch:
    """The open directory `path`, relative to the store. Locked: its owner is alive."""

    fd: int
    path: bytes


@contextlib.contextmanager
def scratch(store_fd: int, purpose: str) -> Iterator[Scratch]:
    """Make a scratch directory in the store open at `store_fd`, and delete it at the end.

    It is locked (flock(2)) while its owner lives, and so can be told from what a killed process
    left behind. Raises OSError.
    """
    path = f"tmp/{purpose}-{os.getpid()}-{os.urandom(8).hex()}".encode()
    os.mkdir(path, 0o755, dir_fd=store_fd)
    fd = os.open(path, OPEN_DIRECTORY, dir_fd=store_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield Scratch(fd, path)
    finally:
        os.close(fd)
        remove_tree(path, store_fd)
