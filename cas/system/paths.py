"""Paths as names: parents, temporary names, and which path lies in which directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cas.system.text import quoted


def parents(path: bytes) -> Iterator[bytes]:
    """Yield the directories above a relative path, the outermost first."""
    end = path.find(b"/")
    while end >= 0:
        yield path[:end]
        end = path.find(b"/", end + 1)


def path_text(path: bytes, root: bytes) -> str:
    """Return a path below `root` as text for a message."""
    return quoted(root.rstrip(b"/") + b"/" + path)


def is_below(path: bytes, directory: bytes) -> bool:
    """Return whether an absolute path is `directory` or lies in it, by the names alone."""
    return os.path.commonpath([path, directory]) == directory


def is_within(path: bytes, directory: bytes) -> bool:
    """Return whether an absolute path is `directory` or lies in it, under any name.

    A bind mount gives a directory several names. A missing path is judged by its parent.
    """
    if is_below(path, directory):
        return True
    try:
        wanted = os.stat(directory)
    except OSError:
        return False
    while path != b"/":
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), wanted):
                return True
        path = os.path.dirname(path)
    return False


def temporary_name(name: bytes) -> bytes:
    """Return an unused name for a file that is written beside `name`, and then renamed to it.

    `name` is cut, so that the result has at most 221 bytes; NAME_MAX is 255.
    """
    return name[:200] + b".cas-" + os.urandom(8).hex().encode()
