"""Reading and hashing contents, all that there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from cas import digest as hashing
from cas.dirs import reachable
from cas.manifest import Digest

_CHUNK = 64
"""How many files a thread hashes before it reports."""

Progress = Callable[[int, int], None]
"""Gets how many bytes were read, of how many."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file of `size` bytes, at `path` in the store, and what its content has to be.

    `name` is the digest, with `.x` if it is executable; `tree` one that has it, if one is known.
    """

    name: bytes
    path: bytes
    size: int
    tree: Digest | None = None


def content_name(node: bytes) -> bytes:
    """Return the name of the content of a regular file, from its node in a manifest."""
    digest = node.rpartition(b" ")[2]
    return digest + b".x" if node.startswith(b"x") else digest


def content_path(name: bytes) -> bytes:
    """Return where a content has to be, relative to the store."""
    return b"objects/" + name[:2] + b"/" + name[2:]


def damaged_contents(
    store_fd: int, contents: Sequence[Content], progress: Progress
) -> Iterator[tuple[Content, str]]:
    """Hash contents, with a thread for each processor that this process may use.

    Yields those that are not what they have to be, and what is wrong with them, as text. What
    was deleted meanwhile is passed over.
    """
    total, done = sum(content.size for content in contents), 0
    largest_first = sorted(contents, key=lambda content: content.size, reverse=True)
    count = -(-len(contents) // _CHUNK)
    chunks = [largest_first[start::count] for start in range(count)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        found = threads.map(partial(_damaged, store_fd), chunks)
        for chunk, damaged in zip(chunks, found, strict=True):
            done += sum(content.size for content in chunk)
            progress(done, total)
            yield from damaged


def _damaged(store_fd: int, contents: Sequence[Content]) -> list[tuple[Content, str]]:
    damaged = []
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    for content in contents:
        try:
            with reachable(content.path, store_fd) as (path, directory):
                fd = os.open(path, flags, dir_fd=directory)
            try:
                if hashing.of_file(fd)[0].encode() != content.name[:64]:
                    damaged.append((content, "is not what was stored"))
            finally:
                os.close(fd)
        except FileNotFoundError:
            continue
        except OSError as error:
            damaged.append((content, f"cannot be read: {error.strerror}"))
    return damaged
