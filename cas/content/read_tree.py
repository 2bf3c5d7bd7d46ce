"""Reading the contents of a stored tree from its layer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cas.content.digest import hash_bytes, hash_file
from cas.errors import StoreDamaged
from cas.model.manifest import Entry, Kind, Manifest
from cas.system.directories import DirCursor, open_directory
from cas.system.files import open_file
from cas.system.text import quoted

_HINT = "run `cas verify --repair`"


def contents_of(manifest: Manifest, layer: bytes) -> Iterator[tuple[Entry, int]]:
    """Yield each entry of a tree, with a descriptor of a file's content until the next step, or -1.

    Raises StoreDamaged, OSError.
    """
    with contextlib.ExitStack() as stack:
        try:
            root = stack.enter_context(open_directory(layer))
        except OSError as error:
            raise StoreDamaged(f"{quoted(layer)}: {error.strerror}", hint=_HINT) from error
        cursor = stack.enter_context(DirCursor(root))
        for entry in manifest:
            if entry.kind is not Kind.FILE:
                yield entry, -1
                continue
            parent, _, name = entry.path.rpartition(b"/")
            try:
                fd = open_file(name, cursor.at(parent))
            except (FileNotFoundError, NotADirectoryError, ValueError) as error:
                raise _damaged(entry) from error
            try:
                yield entry, fd
            finally:
                os.close(fd)


def read_content(entry: Entry, fd: int) -> bytes:
    """Return the content of an entry, which must fit into memory. Raises StoreDamaged, OSError."""
    with open(fd, "rb", closefd=False) as file:
        data = file.read(entry.size + 1)  # one byte more detects a file that has grown
    if hash_bytes(data) != entry.digest:
        raise _damaged(entry)
    return data


def check_content(entry: Entry, fd: int, copy_to: int | None = None) -> None:
    """Check the content of an entry, and copy it to a descriptor. Raises StoreDamaged, OSError."""
    if hash_file(fd, copy_to).digest != entry.digest:
        raise _damaged(entry)


def _damaged(entry: Entry) -> StoreDamaged:
    return StoreDamaged(
        f"the content of {quoted(entry.path)} is damaged in the store",
        hint=_HINT,
    )
