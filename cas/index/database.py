"""The index: an LMDB database that maps IDs to artifact records.

LMDB's own locks are switched off; the lock file of the store replaces them. LMDB identifies readers
by process ID, which two processes in different PID namespaces (sandboxes) can share: the second one
fails with EAGAIN (measured, LMDB 0.9.36). One file lock, shared for reading and exclusive for
writing, avoids that, has no stale readers, and works in a read-only store. Transactions are short:
no contents are hashed or copied in one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator

import lmdb

from cas.disk.group_sharing import share_with_group
from cas.errors import CasError, StoreDamaged
from cas.model.artifact import Artifact, IndexRecord, recorded_signature
from cas.model.manifest import Digest
from cas.model.signature import MAX_LENGTH, Signature
from cas.system.debug_log import debug
from cas.system.directories import open_directory
from cas.system.file_lock import wait_for_lock
from cas.system.oserrors import adding_path
from cas.system.text import quoted

# Address space, not disk: enough for ten million records. It never changes, since two processes
# that resize a map at the same time can corrupt it (py-lmdb issue 269).
_MAP_BYTES = 16 << 30
_HINT = "run `cas rebuild-index`, which rebuilds the index from the store"
_DATABASES = (b"artifacts", b"hashes", b"trees")


class IndexUnavailable(CasError):
    """The index cannot be used for an external reason, such as a full disk."""


class NotOwner(CasError):
    """A forked process uses an index that its parent opened."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"the index {quoted(path)} was opened by the parent of this process",
            hint="close the inherited Store, and open a new one in this process",
        )


class Reader:
    """A read transaction of the index."""

    def __init__(self, txn: lmdb.Transaction, databases: dict[bytes, lmdb._Database]) -> None:
        self._txn = txn
        self._artifacts, self._hashes, self._trees = (databases[name] for name in _DATABASES)

    def get(self, signature: Signature) -> Artifact | None:
        """Return the artifact of an ID, or None. Raises StoreDamaged."""
        record = self.record(str(signature))
        return None if record is None else record.artifact()

    def record(self, name: str) -> IndexRecord | None:
        """Return the record of the complete ID `name`, or None."""
        key = os.fsencode(name)
        if not 0 < len(key) <= MAX_LENGTH:  # the keys that LMDB accepts
            return None
        data = self._txn.get(key, db=self._artifacts)
        return None if data is None else IndexRecord(name, bytes(data))

    def records(self) -> list[IndexRecord]:
        """Return all records in the order of their IDs."""
        rows = self._txn.cursor(self._artifacts)
        return [IndexRecord(os.fsdecode(bytes(key)), bytes(data)) for key, data in rows]

    def names(self) -> set[str]:
        """Return the names of all records, which are IDs unless the index is damaged."""
        keys = self._txn.cursor(self._artifacts).iternext(keys=True, values=False)
        return {os.fsdecode(bytes(key)) for key in keys}

    def signatures(self) -> set[Signature]:
        """Return the IDs of all artifacts. Raises StoreDamaged."""
        return set(map(recorded_signature, self.names()))

    def trees(self) -> set[str]:
        """Return the trees of all artifacts."""
        keys = self._txn.cursor(self._trees).iternext(keys=True, values=False)
        return {bytes(key).partition(b"\0")[0].decode(errors="replace") for key in keys}

    def is_consistent(self, artifacts: Iterable[Artifact]) -> bool:
        """Return whether the secondary indexes have exactly these artifacts."""
        expected: list[set[bytes]] = [set(), set()]
        for artifact in artifacts:
            for number, (_, secondary) in enumerate(self._secondary(artifact)):
                expected[number].add(secondary)
        databases = (self._hashes, self._trees)
        actual = [set(self._txn.cursor(db).iternext(keys=True, values=False)) for db in databases]
        return actual == expected

    def _secondary(self, artifact: Artifact) -> Iterator[tuple[lmdb._Database, bytes]]:
        key = str(artifact.signature).encode()
        yield self._hashes, artifact.signature.hash.encode() + b"\0" + key
        yield self._trees, artifact.tree.encode() + b"\0" + key

    def content(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every key and value, reading every page in use.

        Raises StoreDamaged. A corrupt page can end the process (SIGSEGV).
        """
        for database in (self._artifacts, self._hashes, self._trees):
            yield from ((bytes(key), bytes(data)) for key, data in self._txn.cursor(database))

    def like(self, abbreviation: str) -> list[Signature]:
        """Return the IDs whose recipe is the first field, or whose hash begins with the last one.

        Raises StoreDamaged.
        """
        first, last = abbreviation.split(":")[0], abbreviation.split(":")[-1]
        signatures = {_signature_of(key) for key in self._range(self._artifacts, first + ":")}
        for key in self._range(self._hashes, last):
            signatures.add(_signature_of(key.partition(b"\0")[2]))
        return sorted(signatures, key=str)

    def of_tree(self, tree: Digest) -> list[Artifact]:
        """Return the artifacts with this tree. Raises StoreDamaged."""
        keys = [key.partition(b"\0")[2] for key in self._range(self._trees, tree + "\0")]
        artifacts = (self.get(_signature_of(key)) for key in keys)
        return [artifact for artifact in artifacts if artifact is not None]

    def _range(self, database: lmdb._Database, prefix: str) -> Iterator[bytes]:
        cursor = self._txn.cursor(database)
        wanted = prefix.encode(errors="replace")
        if not wanted or not cursor.set_range(wanted):
            return
        for key in map(bytes, cursor.iternext(keys=True, values=False)):
            if not key.startswith(wanted):
                return
            yield key


class Writer(Reader):
    """A write transaction of the index."""

    def put(self, artifact: Artifact) -> None:
        """Store the record of an artifact, replacing one of the same ID."""
        self.delete(artifact.signature)
        record = artifact.record()
        self._txn.put(record.name.encode(), record.data, db=self._artifacts)
        for database, secondary in self._secondary(artifact):
            self._txn.put(secondary, b"", db=database)

    def delete(self, signature: Signature) -> Artifact | None:
        """Delete the record of an ID; return its artifact, or None."""
        artifact = self.get(signature)
        if artifact is not None:
            self._txn.delete(str(signature).encode(), db=self._artifacts)
            for database, secondary in self._secondary(artifact):
                self._txn.delete(secondary, db=database)
        return artifact

    def forget(self, name: str) -> None:
        """Delete the record of an ID, even a corrupt one."""
        key = os.fsencode(name)
        self._txn.delete(key, db=self._artifacts)
        for database in (self._hashes, self._trees):
            keys = map(bytes, self._txn.cursor(database).iternext(keys=True, values=False))
            for secondary in [k for k in keys if k.endswith(b"\0" + key)]:
                self._txn.delete(secondary, db=database)


def _signature_of(key: bytes) -> Signature:
    return recorded_signature(os.fsdecode(key))


class Index:
    """The index in the directory (or file) `path`, with the lock file `lock` (both absolute).

    `writable` is whether this process may write to it. A forked child can only close it; anything
    else raises NotOwner there.
    """

    def __init__(
        self, path: bytes, lock: bytes, *, create: bool = False, directory: bool = True
    ) -> None:
        self._path = path
        self._data = os.path.join(path, b"data.mdb") if directory else path
        self._lock = lock
        self._owner = os.getpid()
        self.writable = os.access(path, os.W_OK)
        if not create:
            self._refuse_missing()
        with self.locked(exclusive=create), self._faults():
            self._env = lmdb.open(
                path,
                subdir=directory,
                map_size=_MAP_BYTES,
                max_dbs=len(_DATABASES) + 1,
                readonly=not self.writable,
                create=create,
                lock=False,
                metasync=False,
                readahead=False,
            )
            if create:
                self._share()
            self._lengthen()
            self._databases = {name: self._env.open_db(name, create=create) for name in _DATABASES}
        access = "reading and writing" if self.writable else "reading"
        debug("opened the index %s for %s", quoted(path), access)

    def _refuse_missing(self) -> None:
        """Refuse a missing or empty index, which LMDB would create. Raises StoreDamaged."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._data).st_size:
                return
        raise StoreDamaged(f"the index {quoted(self._data)} is missing or empty", hint=_HINT)

    def _share(self) -> None:
        with open_directory(self._path) as directory, open(self._data, "rb") as file:
            share_with_group(file.fileno(), directory)

    def _lengthen(self) -> None:
        """Extend a file that ends before its last page, since reading there is fatal (SIGBUS).

        LMDB does not write unused pages at the end, so a short file may be intact. If it has lost
        its end, LMDB finds empty pages and refuses them. Raises StoreDamaged if the last page is
        beyond the map.
        """
        if self._env.info()["map_size"] > _MAP_BYTES:
            raise StoreDamaged(f"the index {quoted(self._path)} is damaged", hint=_HINT)
        length = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if self.writable and os.stat(self._data).st_size < length:
            os.truncate(self._data, length)

    def copy(self, fd: int) -> None:
        """Copy all pages, used or not, to the file open at `fd`. Raises IndexUnavailable."""
        with self.locked(exclusive=False), self._faults():
            self._env.copyfd(fd)

    def fill(self) -> None:
        """Write as many pages as the index has, which reuses every page that is marked as free.

        Raises IndexUnavailable, StoreDamaged. A corrupt list of free pages can end the process
        (SIGABRT).
        """
        page = bytes(3000)  # more than half a page, so that each value has its own
        with self._faults():
            filler = self._env.open_db(b"filler")
            pages = self._env.info()["last_pgno"]
            for start in range(0, pages, 1000):
                with self._env.begin(write=True, db=filler) as txn:
                    for number in range(start, min(start + 1000, pages)):
                        txn.put(b"%d" % number, page)

    def sync(self) -> None:
        """Write the index to the disk. Raises IndexUnavailable."""
        with self._faults():
            self._env.sync(True)

    def close(self) -> None:
        """Close the index."""
        self._env.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Reader]:
        """Yield a transaction that sees one state of the index, under the shared lock."""
        with self.locked(exclusive=False), self._faults(), self._env.begin() as txn:
            yield Reader(txn, self._databases)

    @contextlib.contextmanager
    def write(self) -> Iterator[Writer]:
        """Take the exclusive lock, and yield a `transaction`."""
        with self.locked(exclusive=True), self.transaction() as writer:
            yield writer

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Writer]:
        """Yield a write transaction; the caller holds the exclusive lock.

        It is committed at the end of the block, and aborted if the block raises. Raises
        IndexUnavailable.
        """
        self._check_owner()
        if not self.writable:
            reason, hint = "not writable for this user", "change its permissions"
            if os.statvfs(self._path).f_flag & os.ST_RDONLY:
                reason, hint = "on a read-only file system", "mount it read-write"
            raise IndexUnavailable(
                f"the index {quoted(self._path)} is {reason}", hint=f"{hint}, or use another store"
            )
        with self._faults():
            txn = self._env.begin(write=True)
            try:
                yield Writer(txn, self._databases)
                self._check_owner()
                txn.commit()
                debug("committed a transaction of the index")
            except BaseException:
                txn.abort()
                raise

    @contextlib.contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Hold the store's lock (flock(2)) during a `with` block; the kernel releases it at death.

        A thread must not take it twice. Raises NotOwner.
        """
        self._check_owner()
        fd = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with adding_path(self._lock):
                wait_for_lock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, self._lock)
            yield
        finally:
            with adding_path(self._lock):
                if os.getpid() == self._owner:  # an inherited descriptor must not keep the lock
                    fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise NotOwner(self._path)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        where = quoted(self._path)
        try:
            yield
        except lmdb.MapFullError as error:
            raise IndexUnavailable(f"the index {where} is full: {error}") from error
        except (lmdb.DiskError, lmdb.ReadonlyError, lmdb.MemoryError) as error:
            raise IndexUnavailable(f"cannot use the index {where}: {error}") from error
        except lmdb.Error as error:
            # LMDB reports a short write on a full disk as "Input/output error".
            if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EIO)):
                hint = "if the disk is full, free space with `cas gc`"
                raise IndexUnavailable(
                    f"cannot write the index {where}: {error}", hint=hint
                ) from error
            if "already open in this process" in str(error):
                hint = "use the open Store, or close it first"
                raise IndexUnavailable(f"{where} is open in this process", hint=hint) from error
            raise StoreDamaged(f"the index {where} is damaged: {error}", hint=_HINT) from error
