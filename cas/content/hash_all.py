"""Hashes contents in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from cas.content.census import ContentFile
from cas.content.digest import hash_file
from cas.system.directories import shortened_path
from cas.system.files import open_file
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.workers import run_parallel

_PROGRESS_BYTES = 20_000_000
"""A worker reports its progress after so many bytes."""
_FILE_OVERHEAD_BYTES = 10_000
"""Opening and closing a file takes as long as hashing so many bytes."""
_MIN_BYTES_PER_WORKER = 10_000_000
"""Starting a worker takes as long as hashing so many bytes."""


class _Batch(NamedTuple):
    """Contents that a worker has hashed: their size in bytes, and the damaged ones."""

    size: int
    damaged: list[tuple[ContentFile, str]]


def damaged_contents(
    root_fd: int, contents: Sequence[ContentFile], progress: Progress = NO_PROGRESS
) -> list[tuple[ContentFile, str]]:
    """Hash contents below `root_fd` on all processors; `progress` counts bytes.

    Returns the damaged ones with a description. Files that disappear meanwhile are skipped. Raises
    WorkerEnded.
    """
    total, done = sum(content.size for content in contents), 0
    damaged: list[tuple[ContentFile, str]] = []

    def on_result(batch: _Batch) -> None:
        nonlocal done
        done += batch.size
        damaged.extend(batch.damaged)
        progress.update(done, total, done)

    run_parallel(
        partial(_hash, root_fd),
        contents,
        on_result,
        weight=_weight,
        min_weight=_MIN_BYTES_PER_WORKER,
    )
    return sorted(damaged)


def _weight(content: ContentFile) -> int:
    return content.size + _FILE_OVERHEAD_BYTES


def _hash(root_fd: int, contents: Sequence[ContentFile], emit: Callable[[_Batch], None]) -> None:
    """Hash contents, and emit the results in batches."""
    size = 0
    damaged: list[tuple[ContentFile, str]] = []
    for number, content in enumerate(contents, 1):
        size += content.size
        damage = _damage(root_fd, content)
        if damage:
            damaged.append((content, damage))
        if size >= _PROGRESS_BYTES or number == len(contents):
            emit(_Batch(size, damaged))
            size, damaged = 0, []


def _damage(root_fd: int, content: ContentFile) -> str:
    try:
        with shortened_path(content.path, root_fd) as (path, directory):
            fd = open_file(path, directory)
        try:
            is_intact = hash_file(fd).digest.encode() == content.name[:64]
        finally:
            os.close(fd)
    except FileNotFoundError:
        return ""  # another process has just removed it
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError as error:
        return f"differs from the stored content: {error}"
    return "" if is_intact else "differs from the stored content"
