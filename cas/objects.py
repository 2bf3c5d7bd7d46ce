"""File contents, each stored once per (digest, executable bit)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from cas import digest as hashing
from cas.boot import contents_since_ns
from cas.dirs import disk_use
from cas.errors import InputRefused
from cas.layout import object_path
from cas.manifest import Digest, Entry
from cas.quoting import quoted
from cas.scratch import locked_file, scratch, temporary_path

_WHOLE = 1 << 20  # bytes; files up to this size are read into memory, and only once


class FileChanged(InputRefused):
    """A file was written to while it was read."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"{quoted(path)} changed while it was read; nothing was stored",
            hint="put a tree when the task that makes it has ended",
        )


class Overtaken(Exception):
    """Another process changed what was relied on, such as an object just found; begin again."""


@dataclass(frozen=True, slots=True)
class ObjectKey:
    """Names an object. The executable bit belongs to it because hard links share their mode."""

    digest: Digest
    executable: bool

    @classmethod
    def of(cls, entry: Entry) -> ObjectKey | None:
        """Return the key of an entry's content; None if it is no regular file."""
        return None if entry.digest is None else cls(entry.digest, entry.executable)

    @property
    def path(self) -> bytes:
        """Where the object is, relative to the store."""
        return object_path(self.digest, executable=self.executable)

    @property
    def mode(self) -> int:
        """The permission bits of the object."""
        return 0o555 if self.executable else 0o444


@dataclass(frozen=True, slots=True)
class Ingested:
    """A file's content is in the store: as `key`, `size` bytes, and by this call if `new`.

    `stat` is of the file when it was read. `adopted` is what it was before that, if the file
    itself became the object.
    """

    key: ObjectKey
    size: int
    new: bool
    stat: os.stat_result
    adopted: os.stat_result | None = None


class Objects:
    """The `objects/` of the store at the absolute path `store`, open at `store_fd` (borrowed)."""

    def __init__(self, store: bytes, store_fd: int) -> None:
        self._path = store
        self._store = store_fd

    @cached_property
    def _of_this_boot_ns(self) -> int:
        return contents_since_ns(self._path)

    def ingest(self, name: bytes, dir_fd: int, path: bytes, *, move: bool = False) -> Ingested:
        """Make sure that the content of a regular file is an object.

        With `move` the file itself becomes the object if that is safe: it keeps its name, but is
        read-only from then on. `path` is for messages. Raises OSError, FileChanged.
        """
        _ = self._of_this_boot_ns  # noted before the first content comes
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=dir_fd)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise FileChanged(path)
            data = _read(fd, before.st_size) if before.st_size <= _WHOLE else None
            if data is None:
                digest, size = hashing.of_file(fd)
            else:
                digest, size = hashing.of_bytes(data), len(data)
            if size != before.st_size:
                raise FileChanged(path)
            _unchanged(fd, before, path)
            key = ObjectKey(digest, bool(before.st_mode & 0o111))
            if self.usable(key):
                return Ingested(key, size, False, before)
            if move and self._adopt(fd, before, key, path):
                return Ingested(key, size, True, os.fstat(fd), adopted=before)
            return Ingested(key, size, self._copy(fd, data, key, path), before)
        finally:
            os.close(fd)

    def usable(self, key: ObjectKey) -> bool:
        """Tell whether the object is there, and whole.

        One from before this boot may have been cut by a power failure, since nothing syncs it:
        it is read, and deleted if it is not what its name says. Raises OSError.
        """
        try:
            fd = os.open(key.path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._store)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(fd).st_mtime_ns > self._of_this_boot_ns:
                return True
            if hashing.of_file(fd)[0] == key.digest:
                return True
        finally:
            os.close(fd)
        self.remove(key)
        return False

    def link(self, key: ObjectKey, name: bytes, dir_fd: int) -> None:
        """Make `name` in `dir_fd`, on the store's file system, a hard link to an object.

        Raises Overtaken, OSError.
        """
        try:
            os.link(key.path, name, src_dir_fd=self._store, dst_dir_fd=dir_fd)
        except FileNotFoundError as error:
            raise Overtaken from error
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            self._renew(key)
            self.link(key, name, dir_fd)

    def remove_unused(self, key: ObjectKey) -> int:
        """Delete the object if nothing links to it; return the bytes that this gave back.

        Deleting is safe at any time, since whoever uses an object holds a link of its own.
        Raises OSError.
        """
        return unlink_unused(key.path, self._store)

    def remove(self, key: ObjectKey) -> None:
        """Delete the object's name; links to it stay what they are. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(key.path, dir_fd=self._store)

    def disown(self, name: bytes, dir_fd: int, before: os.stat_result) -> None:
        """Give a file that was an object, and no longer is, back to its owner. Raises OSError.

        If somebody linked the object meanwhile, the file is theirs, and a copy takes its place.
        """
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            if os.fstat(fd).st_nlink == 1:
                return _restore(fd, before)
            with _new_file(self._store) as new:
                hashing.of_file(fd, copy_to=new)
                _restore(new, before)
                beside = name[:200] + b".cas-" + os.urandom(8).hex().encode()
                source = f"/proc/self/fd/{new}"
                os.link(source, beside, dst_dir_fd=dir_fd, follow_symlinks=True)
                os.rename(beside, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        finally:
            os.close(fd)

    def _copy(self, fd: int, data: bytes | None, key: ObjectKey, path: bytes) -> bool:
        with _new_file(self._store) as new:
            if data is not None:
                hashing.write_all(new, data)
            elif hashing.of_file(fd, copy_to=new)[0] != key.digest:
                raise FileChanged(path)
            os.fchmod(new, key.mode)
            return self._publish(new, key)

    def _adopt(self, fd: int, before: os.stat_result, key: ObjectKey, path: bytes) -> bool:
        """Make the file open at `fd` the object itself, if nobody else can write into it."""
        if before.st_nlink != 1 or before.st_uid != os.geteuid() or os.listxattr(fd):
            return False
        if before.st_dev != os.fstat(self._store).st_dev or _has_writer(fd):
            return False
        os.fchmod(fd, key.mode)
        try:
            _unchanged(fd, before, path)
            os.utime(fd)
            if self._publish(fd, key):
                return True
        except BaseException:
            _restore(fd, before)
            raise
        _restore(fd, before)
        return False

    def _publish(self, fd: int, key: ObjectKey) -> bool:
        """Give an open file its name as an object; False if there was one already.

        link(2), not rename(2): a rename would replace an object that another process has found
        and is about to link, and that link would fail.
        """
        source = f"/proc/self/fd/{fd}"
        try:
            os.link(source, key.path, dst_dir_fd=self._store, follow_symlinks=True)
        except FileExistsError:
            return False
        return True

    def _renew(self, key: ObjectKey) -> None:
        """Put a fresh copy in the place of an object that has all the links it can have.

        The old file stays where it is linked. ext4 allows 65,000 links, and the empty file gets
        there first. The copy keeps the time, which make(1) looks at.
        """
        old = os.open(key.path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._store)
        try:
            found = os.fstat(old)
            with scratch(self._store, "object") as work:
                with _new_file(self._store) as new:
                    hashing.of_file(old, copy_to=new)
                    os.fchmod(new, key.mode)
                    os.utime(new, ns=(found.st_mtime_ns, found.st_mtime_ns))
                    source = f"/proc/self/fd/{new}"
                    os.link(source, b"copy", dst_dir_fd=work.fd, follow_symlinks=True)
                os.rename(b"copy", key.path, src_dir_fd=work.fd, dst_dir_fd=self._store)
        finally:
            os.close(old)


def unlink_unused(path: bytes, dir_fd: int) -> int:
    """Delete the object at a path if nothing links to it; see `Objects.remove_unused`."""
    try:
        found = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        if found.st_nlink > 1:
            return 0
        os.unlink(path, dir_fd=dir_fd)
    except FileNotFoundError:
        return 0
    return disk_use(found)


def _restore(fd: int, before: os.stat_result) -> None:
    """Give an open file the mode and the time that it had `before`. Raises OSError."""
    os.fchmod(fd, stat.S_IMODE(before.st_mode))
    os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextlib.contextmanager
def _new_file(store_fd: int) -> Iterator[int]:
    """A new file on the store's file system, without a name if that can be (open(2), O_TMPFILE).

    It is gone at the end unless it was linked.
    """
    name = None
    try:
        fd = os.open("tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=store_fd)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        name = temporary_path("object")
        fd = locked_file(name, store_fd)
    try:
        yield fd
    finally:
        if name is not None:
            os.unlink(name, dir_fd=store_fd)
        os.close(fd)


def _read(fd: int, size: int) -> bytes:
    """Read up to one byte more than `size`, which shows a file that has grown."""
    data = os.read(fd, size + 1)
    while len(data) <= size and (more := os.read(fd, size + 1 - len(data))):
        data += more
    return data


def _unchanged(fd: int, before: os.stat_result, path: bytes) -> None:
    now = os.fstat(fd)
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise FileChanged(path)


def _has_writer(fd: int) -> bool:
    """Tell whether anybody has the file open for writing: fcntl(2) refuses a read lease then."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False
