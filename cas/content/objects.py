"""File contents, each stored once per (digest, executable bit)."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import cached_property
from typing import NamedTuple

from cas.content.digest import hash_file
from cas.content.stamp import has_exact_times, is_stamped
from cas.disk.boot import contents_since_ns
from cas.disk.layout import object_path, user_object_path
from cas.disk.scratch import scratch, unnamed_file
from cas.errors import StoreDamaged
from cas.model.manifest import Digest, Entry
from cas.system.directories import disk_use
from cas.system.text import quoted


class ConcurrentChange(Exception):
    """Another process changed what was relied on, such as an object just found; begin again."""


class ObjectKey(NamedTuple):
    """Names an object. The executable bit belongs to it because hard links share their mode."""

    digest: Digest
    executable: bool

    @classmethod
    def of(cls, entry: Entry) -> ObjectKey | None:
        """Return the key of an entry's content; None if it is not a regular file."""
        return None if entry.digest is None else cls(entry.digest, entry.executable)

    @property
    def path(self) -> bytes:
        """Where the object is, relative to the store."""
        return object_path(self.digest, executable=self.executable)

    @property
    def mode(self) -> int:
        """The permission bits of the object."""
        return 0o555 if self.executable else 0o444


class Objects:
    """The `objects/` of the store at the absolute path `store`, open at `store_fd` (borrowed)."""

    def __init__(self, store: bytes, store_fd: int) -> None:
        self._path = store
        self.store_fd = store_fd

    @cached_property
    def _of_this_boot_ns(self) -> int:
        return contents_since_ns(self._path)

    def note_boot(self) -> None:
        """Find out, once, which contents are of this boot. Raises OSError."""
        _ = self._of_this_boot_ns

    @cached_property
    def keep_stamps(self) -> bool:
        """Whether the time of an object shows that it was modified; see `cas.content.stamp`."""
        return has_exact_times(os.stat(b"format", dir_fd=self.store_fd))

    @cached_property
    def _place(self) -> os.stat_result:
        return os.fstat(self.store_fd)

    def are_in(self, directory: os.stat_result) -> bool:
        """Tell whether a directory is the store of these objects, whatever its path was."""
        return os.path.samestat(directory, self._place)

    def free_space(self) -> int:
        """Return the bytes of disk that this user may still use. Raises OSError."""
        found = os.statvfs(self.store_fd)
        return found.f_bavail * found.f_frsize

    def size(self, key: ObjectKey) -> int | None:
        """Return how many bytes an object has, None if it is not there. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            return os.stat(key.path, dir_fd=self.store_fd, follow_symlinks=False).st_size
        return None

    def usable(self, key: ObjectKey) -> bool:
        """Tell whether the object is there, and whole.

        One from before this boot may have been cut by a power failure, since nothing syncs it,
        and one without its stamp may have been written to: it is read, and deleted if it is not
        what its name says, as is one with another mode. Raises OSError.
        """
        whole = self._is_whole(key.path, key)
        if whole is False:
            self.remove(key)
        return bool(whole)

    def _is_whole(self, path: bytes, key: ObjectKey) -> bool | None:
        """Tell whether what is at a path is the whole object; None if nothing is there."""
        since_ns = self._of_this_boot_ns  # noted before the first content comes
        try:
            found = os.stat(path, dir_fd=self.store_fd, follow_symlinks=False)
            if found.st_mode != stat.S_IFREG | key.mode:
                return False
            stamped = self.keep_stamps and is_stamped(found, key.digest)
            if found.st_mtime_ns > since_ns and stamped:
                return True
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.store_fd)
        except FileNotFoundError:
            return None
        try:
            return hash_file(fd)[0] == key.digest
        finally:
            os.close(fd)

    def link(self, key: ObjectKey, name: bytes, dir_fd: int) -> None:
        """Make `name` in `dir_fd`, on the store's file system, a hard link to an object.

        The kernel lets nobody but root link a file of somebody else's that is read-only (proc(5),
        protected_hardlinks): then a copy is linked, which this user keeps as an object too.
        Raises ConcurrentChange, StoreDamaged, OSError.
        """
        try:
            self._link(key.path, key, name, dir_fd)
        except FileNotFoundError as error:
            raise ConcurrentChange from error
        except PermissionError:
            own = user_object_path(key.path, os.geteuid())
            linked = False
            while not linked:  # a collection may take the copy away before it is linked
                if not self._is_whole(own, key):
                    self._copy_object(key.path, own, key)
                with contextlib.suppress(FileNotFoundError):
                    self._link(own, key, name, dir_fd)
                    linked = True

    def _link(self, path: bytes, key: ObjectKey, name: bytes, dir_fd: int) -> None:
        """Link the object at a path. The old file stays where it is linked as often as it can be.

        ext4 allows 65,000 links, and the empty file gets there first.
        """
        try:
            os.link(path, name, src_dir_fd=self.store_fd, dst_dir_fd=dir_fd)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            self._copy_object(path, path, key)
            self._link(path, key, name, dir_fd)

    def remove_unused(self, key: ObjectKey, owner: int, links: int = 1) -> int:
        """Delete the object if nothing links to it, and so the copy of it that `owner` keeps.

        The object may have so many `links`, its own name being one.

        Returns the bytes that this gave back. Deleting is safe at any time, since whoever uses an
        object holds a link of its own. Raises OSError.
        """
        freed = unlink_unused(key.path, self.store_fd, links)
        return freed + unlink_unused(user_object_path(key.path, owner), self.store_fd)

    def linked_by(self, key: ObjectKey, owner: int) -> tuple[bytes, os.stat_result] | None:
        """Find the object that a layer of the user `owner` links to: its path, and its state.

        None if there is none. Raises OSError.
        """
        path, found = key.path, None
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(path, dir_fd=self.store_fd, follow_symlinks=False)
        if owner and (found is None or found.st_uid != owner):
            with contextlib.suppress(FileNotFoundError):
                own = user_object_path(path, owner)
                return own, os.stat(own, dir_fd=self.store_fd, follow_symlinks=False)
        return None if found is None else (path, found)

    def has(self, key: ObjectKey, found: os.stat_result) -> bool:
        """Tell whether a file is the object itself. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            place = os.stat(key.path, dir_fd=self.store_fd, follow_symlinks=False)
            return os.path.samestat(place, found)
        return False

    def remove(self, key: ObjectKey) -> None:
        """Delete the object's name; links to it stay what they are. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(key.path, dir_fd=self.store_fd)

    def publish(self, fd: int, key: ObjectKey) -> bool:
        """Give an open file its name as an object; False if there was one already.

        link(2), not rename(2): a rename would replace an object that another process has found
        and is about to link, and that link would fail.
        """
        source = f"/proc/self/fd/{fd}"
        try:
            os.link(source, key.path, dst_dir_fd=self.store_fd, follow_symlinks=True)
        except FileExistsError:
            return False
        return True

    def _copy_object(self, source: bytes, target: bytes, key: ObjectKey) -> None:
        """Put a copy of the object at `source` in the place of what is at `target`.

        It keeps the time, which make(1) looks at. Raises ConcurrentChange, StoreDamaged, OSError.
        """
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # it may be a FIFO
            old = os.open(source, flags, dir_fd=self.store_fd)
        except FileNotFoundError as error:
            raise ConcurrentChange from error
        try:
            found = os.fstat(old)
            with scratch(self.store_fd, "object") as work:
                with unnamed_file(self.store_fd) as new:
                    if hash_file(old, copy_to=new)[0] != key.digest:
                        raise StoreDamaged(
                            f"the object {quoted(source)} is damaged",
                            hint="`cas verify --repair` heals what can be healed",
                        )
                    os.fchmod(new, key.mode)
                    os.utime(new, ns=(found.st_mtime_ns, found.st_mtime_ns))
                    made = f"/proc/self/fd/{new}"
                    os.link(made, b"copy", dst_dir_fd=work.fd, follow_symlinks=True)
                os.rename(b"copy", target, src_dir_fd=work.fd, dst_dir_fd=self.store_fd)
        finally:
            os.close(old)


def unlink_unused(path: bytes, dir_fd: int, links: int = 1) -> int:
    """Delete the object at a path if nothing links to it; see `Objects.remove_unused`."""
    try:
        found = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        if found.st_nlink > links:
            return 0
        os.unlink(path, dir_fd=dir_fd)
    except FileNotFoundError:
        return 0
    return disk_use(found)
