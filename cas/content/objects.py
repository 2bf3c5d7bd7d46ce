"""Objects: file contents, stored once for each digest and executable bit."""

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
from cas.system.debug_log import debug
from cas.system.disk_use import disk_use
from cas.system.text import quoted


class ConcurrentChange(Exception):
    """Another process changed the store meanwhile, for example removed an object; retry."""


class ObjectKey(NamedTuple):
    """The key of an object. It has the executable bit because hard links share their mode."""

    digest: Digest
    executable: bool

    @classmethod
    def of(cls, entry: Entry) -> ObjectKey | None:
        """Return the key of an entry's content; None if it is not a regular file."""
        return None if entry.digest is None else cls(entry.digest, entry.executable)

    @property
    def path(self) -> bytes:
        """The path of the object, relative to the store."""
        return object_path(self.digest, executable=self.executable)

    @property
    def mode(self) -> int:
        """The permission bits of the object."""
        return 0o555 if self.executable else 0o444


class Objects:
    """The objects of the store at the absolute path `store`, open at `store_fd` (borrowed)."""

    def __init__(self, store: bytes, store_fd: int) -> None:
        self._path = store
        self.store_fd = store_fd

    @cached_property
    def _of_this_boot_ns(self) -> int:
        return contents_since_ns(self._path)

    def note_boot(self) -> None:
        """Record the time after which objects belong to this boot. Raises OSError."""
        _ = self._of_this_boot_ns

    @cached_property
    def keep_stamps(self) -> bool:
        """Whether the time of an object shows that it was modified; see `cas.content.stamp`."""
        return has_exact_times(os.stat(b"format", dir_fd=self.store_fd))

    @cached_property
    def _place(self) -> os.stat_result:
        return os.fstat(self.store_fd)

    def are_in(self, directory: os.stat_result) -> bool:
        """Return whether a directory is the store of these objects, under any path."""
        return os.path.samestat(directory, self._place)

    def free_space(self) -> int:
        """Return the disk space (bytes) available to this user. Raises OSError."""
        disk = os.statvfs(self.store_fd)
        return disk.f_bavail * disk.f_frsize

    def size(self, key: ObjectKey) -> int | None:
        """Return the size (bytes) of an object, or None if it does not exist. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            return os.stat(key.path, dir_fd=self.store_fd, follow_symlinks=False).st_size
        return None

    def usable(self, key: ObjectKey) -> bool:
        """Return whether the object exists and is intact; delete a damaged one.

        An object of an earlier boot may have been truncated by a power failure, since objects are
        not synced, and one without its stamp may have been modified: both are read and hashed.
        Raises OSError.
        """
        intact = self._is_intact(key.path, key)
        if intact is False:
            debug("deleting the damaged object %s", quoted(key.path))
            self.remove(key)
        return bool(intact)

    def _is_intact(self, path: bytes, key: ObjectKey) -> bool | None:
        """Return whether the file at a path is the intact object; None if it does not exist."""
        since_ns = self._of_this_boot_ns  # recorded before the first object is stored
        try:
            status = os.stat(path, dir_fd=self.store_fd, follow_symlinks=False)
            if status.st_mode != stat.S_IFREG | key.mode:
                return False
            stamped = self.keep_stamps and is_stamped(status, key.digest)
            if status.st_mtime_ns > since_ns and stamped:
                return True
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.store_fd)
        except FileNotFoundError:
            return None
        try:
            return hash_file(fd).digest == key.digest
        finally:
            os.close(fd)

    def link(self, key: ObjectKey, name: bytes, dir_fd: int) -> None:
        """Create the hard link `name` in `dir_fd`, on the store's file system, to an object.

        Only root may link to another user's read-only file (proc(5), protected_hardlinks). Others
        get a link to a copy, which the store keeps as this user's object. Raises ConcurrentChange,
        StoreDamaged, OSError.
        """
        try:
            self._link(key.path, key, name, dir_fd)
        except FileNotFoundError as error:
            raise ConcurrentChange from error
        except PermissionError:
            own = user_object_path(key.path, os.geteuid())
            linked = False
            while not linked:  # gc may remove the copy before it is linked
                if not self._is_intact(own, key):
                    self._copy_object(key.path, own, key)
                with contextlib.suppress(FileNotFoundError):
                    self._link(own, key, name, dir_fd)
                    linked = True

    def _link(self, path: bytes, key: ObjectKey, name: bytes, dir_fd: int) -> None:
        """Link the object at a path; replace it with a copy if it has the maximum of links.

        ext4 allows 65,000 links, which the empty file reaches first. Existing links keep the old
        file.
        """
        try:
            os.link(path, name, src_dir_fd=self.store_fd, dst_dir_fd=dir_fd)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            self._copy_object(path, path, key)
            self._link(path, key, name, dir_fd)

    def remove_unused(self, key: ObjectKey, owner: int, links: int = 1) -> int:
        """Delete the object, and the copy that belongs to `owner`, if no layer links to them.

        An object with up to `links` links, including its own name, counts as unused. Returns the
        disk space freed (bytes). Deleting is always safe, since every user of an object has its own
        link. Raises OSError.
        """
        freed = unlink_unused(key.path, self.store_fd, links)
        return freed + unlink_unused(user_object_path(key.path, owner), self.store_fd)

    def linked_by(self, key: ObjectKey, owner: int) -> tuple[bytes, os.stat_result] | None:
        """Return the path and the stat of the object that layers of the user `owner` link to.

        Returns None if it does not exist. Raises OSError.
        """
        path, status = key.path, None
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path, dir_fd=self.store_fd, follow_symlinks=False)
        if owner and (status is None or status.st_uid != owner):
            with contextlib.suppress(FileNotFoundError):
                own = user_object_path(path, owner)
                return own, os.stat(own, dir_fd=self.store_fd, follow_symlinks=False)
        return None if status is None else (path, status)

    def is_object(self, key: ObjectKey, status: os.stat_result) -> bool:
        """Return whether a file is the object itself. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            place = os.stat(key.path, dir_fd=self.store_fd, follow_symlinks=False)
            return os.path.samestat(place, status)
        return False

    def remove(self, key: ObjectKey) -> None:
        """Delete the name of an object; other links to it remain. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(key.path, dir_fd=self.store_fd)

    def publish(self, fd: int, key: ObjectKey) -> bool:
        """Link an open file to its name as an object; return False if the object exists already.

        link(2) and not rename(2): a rename would replace an object that another process has just
        found and is about to link.
        """
        source = f"/proc/self/fd/{fd}"
        try:
            os.link(source, key.path, dst_dir_fd=self.store_fd, follow_symlinks=True)
        except FileExistsError:
            return False
        debug("published the object %s", key.digest)
        return True

    def _copy_object(self, source: bytes, target: bytes, key: ObjectKey) -> None:
        """Replace `target` with a copy of the object at `source`.

        The copy keeps the time, since make(1) compares it. Raises ConcurrentChange, StoreDamaged,
        OSError.
        """
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # it may be a FIFO
            old = os.open(source, flags, dir_fd=self.store_fd)
        except FileNotFoundError as error:
            raise ConcurrentChange from error
        try:
            status = os.fstat(old)
            with scratch(self.store_fd, "object") as work:
                with unnamed_file(self.store_fd) as new:
                    if hash_file(old, copy_to=new).digest != key.digest:
                        raise StoreDamaged(
                            f"the object {quoted(source)} is damaged",
                            hint="run `cas verify --repair`",
                        )
                    os.fchmod(new, key.mode)
                    os.utime(new, ns=(status.st_mtime_ns, status.st_mtime_ns))
                    made = f"/proc/self/fd/{new}"
                    os.link(made, b"copy", dst_dir_fd=work.fd, follow_symlinks=True)
                os.rename(b"copy", target, src_dir_fd=work.fd, dst_dir_fd=self.store_fd)
                debug("copied the object %s to %s", quoted(source), quoted(target))
        finally:
            os.close(old)


def unlink_unused(path: bytes, dir_fd: int, links: int = 1) -> int:
    """Delete the object at a path if it is unused; see `Objects.remove_unused`."""
    try:
        status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        if status.st_nlink > links:
            return 0
        os.unlink(path, dir_fd=dir_fd)
    except FileNotFoundError:
        return 0
    return disk_use(status)
