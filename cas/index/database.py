"""The index: LMDB, mapping task signatures to artifact records.

LMDB's own locks are switched off, and the store's lock file is used in their place. LMDB tells
its readers apart by process id, and two processes in two PID namespaces (two sandboxes, say) can
have the same: the second then fails with EAGAIN (measured, LMDB 0.9.36). With one file lock,
shared for reading and exclusive for writing, that cannot happen, no reader can be stale, and a
store that may only be read works. Transactions are short: nobody hashes or copies within one.
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
from cas.system.directories import open_directory
from cas.system.oserrors import adding_path
from cas.system.text import quoted

# Address space, not disk: room for some ten million records, and never changed afterwards,
# since two processes that resize a map at once can corrupt it (py-lmdb issue 269).
_MAP_SIZE = 16 << 30
_HINT = "`cas rebuild-index` makes it again from the store"
_DATABASES = (b"artifacts", b"hashes", b"trees")


class IndexUnavailable(CasError):
    """The index cannot be written or read for a reason outside of it, such as a full disk."""


class NotOwner(CasError):
    """A process uses what its parent opened."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"the index {quoted(path)} was opened by the process that forked this one",
            hint="close the Store that came from there, and open one here",
        )


class Reader:
    """What can be asked of the index in one transaction."""

    def __init__(self, txn: lmdb.Transaction, databases: dict[bytes, lmdb._Database]) -> None:
        self._txn = txn
        self._artifacts, self._hashes, self._trees = (databases[name] for name in _DATABASES)

    def get(self, signature: Signature) -> Artifact | None:
        """Return the artifact of a whole signature, if there is one. Raises StoreDamaged."""
        record = self.record(str(signature))
        return None if record is None else record.artifact()

    def record(self, name: str) -> IndexRecord | None:
        """Return the record of a whole signature, if `name` is one that is there."""
        key = os.fsencode(name)
        if not 0 < len(key) <= MAX_LENGTH:  # what LMDB takes
            return None
        data = self._txn.get(key, db=self._artifacts)
        return None if data is None else IndexRecord(name, bytes(data))

    def records(self) -> list[IndexRecord]:
        """Return every record, in the order of signatures."""
        rows = self._txn.cursor(self._artifacts)
        return [IndexRecord(os.fsdecode(bytes(key)), bytes(data)) for key, data in rows]

    def names(self) -> set[str]:
        """Return the names of all artifacts, which are signatures if the index is as it was."""
        keys = self._txn.cursor(self._artifacts).iternext(keys=True, values=False)
        return {os.fsdecode(bytes(key)) for key in keys}

    def signatures(self) -> set[Signature]:
        """Return the signatures of all artifacts. Raises StoreDamaged."""
        return set(map(recorded_signature, self.names()))

    def trees(self) -> set[str]:
        """Return the trees of all artifacts."""
        keys = self._txn.cursor(self._trees).iternext(keys=True, values=False)
        return {bytes(key).partition(b"\0")[0].decode(errors="replace") for key in keys}

    def is_consistent(self, artifacts: Iterable[Artifact]) -> bool:
        """Tell whether these artifacts, and no others, are found by hash and by tree."""
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
        """Yield every key and value, from every page that is in use.

        Raises StoreDamaged, or ends the process (SIGSEGV).
        """
        for database in (self._artifacts, self._hashes, self._trees):
            yield from ((bytes(key), bytes(data)) for key, data in self._txn.cursor(database))

    def like(self, abbreviation: str) -> list[Signature]:
        """Return the signatures that begin with the first or end near the last field given.

        Raises StoreDamaged.
        """
        first, last = abbreviation.split(":")[0], abbreviation.split(":")[-1]
        found = {_signature_of(key) for key in self._range(self._artifacts, first + ":")}
        for key in self._range(self._hashes, last):
            found.add(_signature_of(key.partition(b"\0")[2]))
        return sorted(found, key=str)

    def of_tree(self, tree: Digest) -> list[Artifact]:
        """Return the artifacts that are this tree. Raises StoreDamaged."""
        keys = [key.partition(b"\0")[2] for key in self._range(self._trees, tree + "\0")]
        found = (self.get(_signature_of(key)) for key in keys)
        return [artifact for artifact in found if artifact is not None]

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
    """What can be done to the index in one transaction."""

    def put(self, artifact: Artifact) -> None:
        """Record an artifact in the place of one of the same signature."""
        self.delete(artifact.signature)
        record = artifact.record()
        self._txn.put(record.name.encode(), record.data, db=self._artifacts)
        for database, secondary in self._secondary(artifact):
            self._txn.put(secondary, b"", db=database)

    def delete(self, signature: Signature) -> Artifact | None:
        """Forget an artifact; return what was forgotten."""
        artifact = self.get(signature)
        if artifact is not None:
            self._txn.delete(str(signature).encode(), db=self._artifacts)
            for database, secondary in self._secondary(artifact):
                self._txn.delete(secondary, db=database)
        return artifact

    def forget(self, name: str) -> None:
        """Forget the record of a signature, even one that makes no sense."""
        key = os.fsencode(name)
        self._txn.delete(key, db=self._artifacts)
        for database in (self._hashes, self._trees):
            keys = map(bytes, self._txn.cursor(database).iternext(keys=True, values=False))
            for secondary in [one for one in keys if one.endswith(b"\0" + key)]:
                self._txn.delete(secondary, db=database)


def _signature_of(key: bytes) -> Signature:
    return recorded_signature(os.fsdecode(key))


class Index:
    """The index in the directory `path`, or file, under the lock file `lock` (both absolute).

    `writable` tells whether this process may write to it. A child that was forked meanwhile can
    only close it; anything else raises NotOwner there.
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
                map_size=_MAP_SIZE,
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

    def _refuse_missing(self) -> None:
        """Refuse to begin with what LMDB would make a new index of. Raises StoreDamaged."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._data).st_size:
                return
        raise StoreDamaged(f"the index {quoted(self._data)} is missing or empty", hint=_HINT)

    def _share(self) -> None:
        with open_directory(self._path) as directory, open(self._data, "rb") as file:
            share_with_group(file.fileno(), directory)

    def _lengthen(self) -> None:
        """Make a file that ends before its last page longer, since to read there is fatal (SIGBUS).

        LMDB does not write a page at the end that is not in use; so short is not damaged, but what
        lost its end is short too. Then empty pages are found, which LMDB refuses. Raises
        StoreDamaged if that last page cannot be.
        """
        if self._env.info()["map_size"] > _MAP_SIZE:
            raise StoreDamaged(f"the index {quoted(self._path)} is damaged", hint=_HINT)
        length = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if self.writable and os.stat(self._data).st_size < length:
            os.truncate(self._data, length)

    def copy(self, fd: int) -> None:
        """Copy all pages, used or not, to the file open at `fd`. Raises IndexUnavailable."""
        with self.locked(exclusive=False), self._faults():
            self._env.copyfd(fd)

    def fill(self) -> None:
        """Write as many pages as there are, and so into all that are said to be free.

        Raises IndexUnavailable, StoreDamaged, or ends the process (SIGABRT).
        """
        page = bytes(3000)  # more than goes into a page with others (lmdb.h: about half of it)
        with self._faults():
            filler = self._env.open_db(b"filler")
            pages = self._env.info()["last_pgno"]
            for start in range(0, pages, 1000):
                with self._env.begin(write=True, db=filler) as txn:
                    for number in range(start, min(start + 1000, pages)):
                        txn.put(b"%d" % number, page)

    def sync(self) -> None:
        """Write it to the disk. Raises IndexUnavailable."""
        with self._faults():
            self._env.sync(True)

    def close(self) -> None:
        """Close it; nothing can be asked of it any more."""
        self._env.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Reader]:
        """A transaction that sees one state of the index, under the shared lock."""
        with self.locked(exclusive=False), self._faults(), self._env.begin() as txn:
            yield Reader(txn, self._databases)

    @contextlib.contextmanager
    def write(self) -> Iterator[Writer]:
        """Like `transaction`, under the exclusive lock, which it takes."""
        with self.locked(exclusive=True), self.transaction() as writer:
            yield writer

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Writer]:
        """A transaction for a caller that holds the exclusive lock.

        It becomes visible, and durable in itself, at the end of the block; it is undone if the
        block raises. Raises IndexUnavailable.
        """
        self._check_owner()
        if not self.writable:
            why, hint = "not writable for this user", "let the user write to it"
            if os.statvfs(self._path).f_flag & os.ST_RDONLY:
                why, hint = "on a read-only file system", "mount that for writing"
            raise IndexUnavailable(
                f"the index {quoted(self._path)} is {why}", hint=f"{hint}, or use another store"
            )
        with self._faults():
            txn = self._env.begin(write=True)
            try:
                yield Writer(txn, self._databases)
                self._check_owner()
                txn.commit()
            except BaseException:
                txn.abort()
                raise

    @contextlib.contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Hold the store's lock (flock(2)); it is let go when its holder dies.

        Not to be taken by one thread twice. Raises NotOwner.
        """
        self._check_owner()
        fd = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with adding_path(self._lock):
                fcntl.flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield
        finally:
            with adding_path(self._lock):
                if os.getpid() == self._owner:  # a child that has it holds the lock no longer
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
            # A write that a full disk cuts short is an "Input/output error" to LMDB.
            if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EIO)):
                hint = "if the disk is full, `cas gc` makes room"
                raise IndexUnavailable(
                    f"cannot write the index {where}: {error}", hint=hint
                ) from error
            if "already open in this process" in str(error):
                hint = "use that Store, or close it first"
                raise IndexUnavailable(f"{where} is open in this process", hint=hint) from error
            raise StoreDamaged(f"the index {where} is damaged: {error}", hint=_HINT) from error
