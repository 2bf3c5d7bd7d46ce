"""Reading and hashing contents, all that there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from cas.content.census import ContentFile
from cas.content.digest import hash_file
from cas.system.directories import shortened_path
from cas.system.files import open_file
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.workers import run_parallel

_TOGETHER = 20_000_000
"""How many bytes are hashed before that is told."""
_COST_OF_A_FILE = 10_000
"""How many bytes are hashed in the time that it takes to open and close a file."""
_LITTLE = 10_000_000
"""How many bytes are hashed in the time that it takes to begin and end a process."""

_Hashed = tuple[int, list[tuple[ContentFile, str]]]


def damaged_contents(
    root_fd: int, contents: Sequence[ContentFile], progress: Progress = NO_PROGRESS
) -> list[tuple[ContentFile, str]]:
    """Hash contents below `root_fd`, by all processors; `progress` gets bytes.

    Returns those that are not what they have to be, and what is wrong with them, as text. What
    was deleted meanwhile is passed over. Raises WorkerEnded.
    """
    total, done = sum(content.size for content in contents), 0
    damaged: list[tuple[ContentFile, str]] = []

    def take(hashed: _Hashed) -> None:
        nonlocal done
        done += hashed[0]
        damaged.extend(hashed[1])
        progress.update(done, total, done)

    run_parallel(partial(_hash, root_fd), contents, take, weight=_weight, min_weight=_LITTLE)
    return sorted(damaged)


def _weight(content: ContentFile) -> int:
    return content.size + _COST_OF_A_FILE


def _hash(root_fd: int, contents: Sequence[ContentFile], give: Callable[[_Hashed], None]) -> None:
    """Tell, some contents at a time, how many bytes they had, and which are damaged."""
    size, damaged = 0, []
    for number, content in enumerate(contents, 1):
        size += content.size
        what = _damage(root_fd, content)
        if what:
            damaged.append((content, what))
        if size >= _TOGETHER or number == len(contents):
            give((size, damaged))
            size, damaged = 0, []


def _damage(root_fd: int, content: ContentFile) -> str:
    try:
        with shortened_path(content.path, root_fd) as (path, directory):
            fd = open_file(path, directory)
        try:
            right = hash_file(fd)[0].encode() == content.name[:64]
        finally:
            os.close(fd)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError as error:
        return f"is not what was stored: {error}"
    return "" if right else "is not what was stored"
