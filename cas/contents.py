"""Reading and hashing contents, all that there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from cas import digest as hashing
from cas.census import Content
from cas.dirs import reachable
from cas.workers import spread

_TOGETHER = 64
"""How many files are hashed before that is told."""
_COST_OF_A_FILE = 10_000
"""How many bytes are hashed in the time that it takes to open and close a file."""

Progress = Callable[[int, int], None]
"""Gets how many bytes were read, of how many."""


def damaged_contents(
    root_fd: int, contents: Sequence[Content], progress: Progress = lambda done, total: None
) -> Iterator[tuple[Content, str]]:
    """Hash contents below `root_fd`, by all processors; `progress` gets bytes.

    Yields those that are not what they have to be, and what is wrong with them, as text. What
    was deleted meanwhile is passed over. Raises WorkerEnded.
    """
    total, done = sum(content.size for content in contents), 0
    for size, damaged in spread(partial(_hash, root_fd), contents, _weight):
        done += size
        progress(done, total)
        yield from damaged


def _weight(content: Content) -> int:
    return content.size + _COST_OF_A_FILE


def _hash(
    root_fd: int, contents: Sequence[Content]
) -> Iterator[tuple[int, list[tuple[Content, str]]]]:
    """Yield, after each some contents, how many bytes they had, and which are damaged."""
    for start in range(0, len(contents), _TOGETHER):
        some = contents[start : start + _TOGETHER]
        found = ((content, _damage(root_fd, content)) for content in some)
        damaged = [(content, what) for content, what in found if what]
        yield sum(content.size for content in some), damaged


def _damage(root_fd: int, content: Content) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with reachable(content.path, root_fd) as (path, directory):
            fd = os.open(path, flags, dir_fd=directory)
        try:
            right = hashing.of_file(fd)[0].encode() == content.name[:64]
        finally:
            os.close(fd)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if right else "is not what was stored"
