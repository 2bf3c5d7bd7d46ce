"""Ingests the files of a tree: each content becomes an object."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from cas.content.digest import hash_bytes, hash_file, hash_stream, write_all
from cas.content.objects import ObjectKey, Objects
from cas.content.stamp import stamp
from cas.disk.scratch import unnamed_file
from cas.errors import InputRefused
from cas.put.journal import FileState, Journal, JournalEntry
from cas.system.directories import attributes
from cas.system.text import quoted

_MAX_BYTES_IN_MEMORY = 1 << 20
"""Files up to this size are read once, into memory; larger ones are hashed and then copied."""


class FileChanged(InputRefused):
    """A file was written to while it was read."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"{quoted(path)} changed while it was read; nothing was stored",
            hint="put the tree after its task has ended",
        )


class Ingested(NamedTuple):
    """A content of `size` bytes that is stored as the object `key`.

    `new` is the disk space (bytes) that it took, or None if the object existed. `before` is the
    state of the file before, `names` are its extended attributes, and `stat` is its state now.
    """

    key: ObjectKey
    size: int
    new: int | None
    before: os.stat_result
    names: list[str]
    stat: os.stat_result


def ingest(
    objects: Objects, path: bytes, dir_fd: int, root: bytes, journal: Journal, *, move: bool
) -> Ingested:
    """Store the content of a regular file, `path` in the tree at `root`, as an object.

    Its directory is open at `dir_fd`. With `move`, the file itself becomes the object if that is
    safe: it keeps its name, but is read-only from then on. Changes are noted in the journal before
    they happen. Raises OSError, FileChanged.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    full_path = os.path.join(root, path)
    fd = os.open(os.path.basename(path), flags, dir_fd=dir_fd)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise FileChanged(full_path)
        data = _read(fd, before.st_size) if before.st_size <= _MAX_BYTES_IN_MEMORY else None
        if data is None:
            digest, size = hash_file(fd)
        else:
            digest, size = hash_bytes(data), len(data)
        if size != before.st_size:
            raise FileChanged(full_path)
        _refuse_changed(fd, before, full_path)
        names = attributes(fd)
        key = ObjectKey(digest, bool(before.st_mode & 0o111))
        if objects.usable(key):
            return Ingested(key, size, None, before, names, before)
        journal.note(JournalEntry(path, key, FileState.of(before) if move else None))
        now = _adopt(objects, fd, before, key, full_path) if move and not names else None
        if now is not None:
            return Ingested(key, size, now.st_blocks * 512, before, names, now)
        return Ingested(key, size, _copy(objects, fd, data, key, full_path), before, names, before)
    finally:
        os.close(fd)


def ingest_stream(
    objects: Objects,
    read: Callable[[int], bytes],
    path: bytes,
    journal: Journal,
    *,
    executable: bool,
) -> tuple[ObjectKey, int, int | None]:
    """Store the data that `read` returns, the file `path` of a tree, as an object.

    Returns its key, its size (bytes), and the disk space that it took (bytes), or None if the
    object existed. Changes are noted in the journal before they happen. Raises OSError, and the
    exceptions of `read`.
    """
    with unnamed_file(objects.store_fd) as new:
        digest, size = hash_stream(read, new)
        key = ObjectKey(digest, executable)
        if objects.usable(key):
            return key, size, None
        journal.note(JournalEntry(path, key, None))
        return key, size, _publish(objects, new, key)


def _copy(objects: Objects, fd: int, data: bytes | None, key: ObjectKey, path: bytes) -> int | None:
    with unnamed_file(objects.store_fd) as new:
        if data is not None:
            write_all(new, data)
        elif hash_file(fd, copy_to=new).digest != key.digest:  # not what was hashed before
            raise FileChanged(path)
        return _publish(objects, new, key)


def _publish(objects: Objects, new: int, key: ObjectKey) -> int | None:
    # Mode and stamp before the link, from which on other processes use the object.
    os.fchmod(new, key.mode)
    stamp(new, key.digest)
    return os.fstat(new).st_blocks * 512 if objects.publish(new, key) else None


def _adopt(
    objects: Objects, fd: int, before: os.stat_result, key: ObjectKey, path: bytes
) -> os.stat_result | None:
    """Turn the file open at `fd`, without attributes, into the object if it has no writers.

    Returns its new state, or None if the file is unchanged.
    """
    if before.st_nlink != 1 or before.st_uid != os.geteuid():
        return None
    if before.st_dev != os.fstat(objects.store_fd).st_dev:
        return None
    os.fchmod(fd, key.mode)  # before looking for writers, so that none can begin afterwards
    try:
        if _has_writer(fd):
            FileState.of(before).restore(fd)
            return None
        _refuse_changed(fd, before, path)
        stamp(fd, key.digest)
        now = os.fstat(fd)
        if objects.publish(fd, key):  # the last step: nothing after it can fail
            return now
    except BaseException:
        FileState.of(before).restore(fd)
        raise
    FileState.of(before).restore(fd)
    return None


def _read(fd: int, size: int) -> bytes:
    """Read up to one byte more than `size`, to detect a file that has grown."""
    data = os.read(fd, size + 1)
    while len(data) <= size and (rest := os.read(fd, size + 1 - len(data))):
        data += rest
    return data


def _refuse_changed(fd: int, before: os.stat_result, path: bytes) -> None:
    now = os.fstat(fd)
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise FileChanged(path)


def _has_writer(fd: int) -> bool:
    """Return whether the file is open for writing: fcntl(2) then refuses a read lease."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False
