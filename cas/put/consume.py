"""Removes a moved tree after its put."""

from __future__ import annotations

import contextlib
import os

from cas.errors import CasError
from cas.put.scan_result import ScanResult, file_identity
from cas.system.directories import DirCursor
from cas.system.paths import path_text
from cas.system.text import quoted

_MAX_PATHS_SHOWN = 5


class TreeLeftOver(CasError):
    """A moved tree was stored, but could not be removed completely."""


def consume(root: bytes, root_fd: int, scan: ScanResult) -> None:
    """Delete the tree that was read, except entries that are new or changed since.

    Raises TreeLeftOver if entries are left.
    """
    left: list[str] = []
    with DirCursor(root_fd) as cursor:
        # In reverse order, so that a directory comes after its entries.
        for path, before in sorted(scan.seen.items(), reverse=True):
            parent, _, name = path.rpartition(b"/")
            try:
                dir_fd = cursor.at(parent)
                if before is None:
                    os.rmdir(name, dir_fd=dir_fd)
                    continue
                now = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                if file_identity(now) != before:
                    left.append(path_text(path, root))
                else:
                    os.unlink(name, dir_fd=dir_fd)
            except OSError as error:
                left.append(f"{path_text(path, root)} ({error.strerror})")
    with contextlib.suppress(OSError):
        os.rmdir(root)
        return
    if not left:
        new = [path_text(os.fsencode(name), root) for name in os.listdir(root_fd)]
        left = new or [f"the directory itself, {quoted(root)}"]
    paths = ", ".join(left[:_MAX_PATHS_SHOWN])
    raise TreeLeftOver(
        f"{quoted(root)} was stored, but not all of it could be removed: {paths}",
        hint="check the remaining files, and delete them by hand",
    )
