"""Putting a tree into the store."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from cas.content.differences import iter_differences
from cas.content.digest import hash_bytes
from cas.content.layers import overhead
from cas.content.objects import ConcurrentChange, Objects
from cas.disk.boot import boot_id
from cas.disk.layout import layer_path, manifest_path
from cas.disk.leases import Lease
from cas.disk.log import Event, EventKind, append_events, new_event
from cas.disk.scratch import Scratch, scratch
from cas.errors import CasError, ExitCode, InputRefused, StoreDamaged
from cas.index import artifact_links
from cas.index.database import Reader
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.model.manifest import Digest, Kind, Manifest
from cas.model.signature import Signature
from cas.put.journal import Journal
from cas.put.source_tree import Place, ScanResult, consume, read_tree
from cas.system.compression import SUFFIXES, is_archive
from cas.system.directories import open_directory
from cas.system.paths import is_within
from cas.system.progress import Progress
from cas.system.signals import signals_blocked
from cas.system.text import quoted

Source = Callable[[Objects, Journal], ScanResult]
"""Reads a tree from somewhere, and makes objects of its contents; the journal takes them back."""


class SignatureConflict(CasError):
    """The ID is stored with another tree; `differences` lists the paths, as text."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, signature: Signature, differences: list[str]) -> None:
        self.differences = differences
        shown = "".join(f"\n  {line}" for line in differences[:10])
        more = f"\n  … and {len(differences) - 10} more" if len(differences) > 10 else ""
        super().__init__(
            f"{signature} is stored with another tree; these paths differ:{shown}{more}",
            hint="the task does not give the same result each time; --replace takes the new one",
        )


class PutResult(NamedTuple):
    """What a put did: the artifact, and how many bytes of content were new to the store.

    `new` is how many contents that were. `unchanged` if the same tree was there under this
    signature; `replaced` is the other tree that was.
    """

    artifact: Artifact
    new_bytes: int
    unchanged: bool = False
    replaced: Digest | None = None
    new: int = 0


def put_tree(
    storage: StoreParts,
    signature: Signature,
    known: Artifact | None,
    tree: str | bytes | os.PathLike[str],
    *,
    move: bool,
    replace: bool,
    place: Place,
    progress: Progress,
) -> PutResult:
    """Store the directory `tree`, whose signature has the artifact `known` so far.

    With `move` the directory is consumed: its files become the store's where that is safe, and
    it is gone at the end. A file named like a tar archive is stored as what would be unpacked from
    it. `place` tells where paths of the archive, or of a directory that is not moved, are in the
    stored tree. `progress` gets files. When this raises, nothing was stored, and the directory is
    as it was.

    Raises InputRefused (what cannot be stored, by path), SignatureConflict unless `replace`,
    TreeLeftOver (stored, but not all of a moved tree removed), ArchiveRefused, NoZstd, CasError,
    OSError; ConcurrentChange, when it has to be called again with what is known then.
    """
    path = os.fsencode(tree)
    if is_archive(path) and not os.path.isdir(path):
        from cas.put.source_archive import read_archive

        if move:
            raise InputRefused(
                f"{quoted(path)} is an archive, whose files cannot become the store's",
                hint="store it without moving it, and delete it then",
            )
        where = os.path.abspath(path)
        source = partial(read_archive, where, place, progress)
        origin = os.fsdecode(where)
        return put_scan(storage, signature, known, source, origin, replace=replace)
    root = os.path.realpath(path)
    _refuse_root(root, storage.path)
    with open_directory(root) as fd, _putting(storage, signature, fd) as journal:
        reading = read_tree(root, fd, place, storage.objects, journal, move=move, progress=progress)
        origin = os.fsdecode(root)
        result = _record_reading(storage, signature, known, reading, origin, replace=replace)
        if move:
            with signals_blocked():  # what would be left are files of the store
                journal.forget()
                consume(root, fd, reading)
    return result


def put_scan(
    storage: StoreParts,
    signature: Signature,
    known: Artifact | None,
    source: Source,
    origin: str,
    *,
    replace: bool = False,
) -> PutResult:
    """Store the tree that `source` reads, whose signature has the artifact `known` so far.

    `origin` tells people who look at the log where it comes from.

    When this raises, nothing was stored. Raises SignatureConflict unless `replace`, CasError,
    OSError, what `source` raises; and ConcurrentChange, when it has to be called again with what
    is known then.
    """
    with _putting(storage, signature, storage.fd) as journal:
        reading = source(storage.objects, journal)
        return _record_reading(storage, signature, known, reading, origin, replace=replace)


@contextlib.contextmanager
def _putting(storage: StoreParts, signature: Signature, root_fd: int) -> Iterator[Journal]:
    """Give a journal, and take back what is in it if there is an error.

    `root_fd` is the tree's root, whose files may have become objects.
    """
    purpose = f"put of {signature}"
    with Lease(storage.path, (), purpose=purpose), Journal() as journal:
        try:
            yield journal
        except BaseException:
            with signals_blocked():
                journal.undo(root_fd, storage.objects)
            raise


def _record_reading(
    storage: StoreParts,
    signature: Signature,
    known: Artifact | None,
    reading: ScanResult,
    origin: str,
    *,
    replace: bool,
) -> PutResult:
    """Record an artifact that was read, in place of `known`. Raises what `put_tree` raises."""
    manifest = reading.manifest
    digest = hash_bytes(manifest.encode())
    unchanged = known is not None and known.tree == digest
    if known is not None and not unchanged and not replace:
        old = storage.layers.manifest(known.tree)
        raise SignatureConflict(signature, list(map(str, iter_differences(old, manifest))))
    if unchanged and reading.new and storage.layers.exists(digest):
        _refuse_damaged(storage, digest)  # something of it had to be stored again
    artifact = _artifact(signature, digest, reading)
    if not unchanged or not storage.layers.exists(digest):
        with scratch(storage.fd, "put") as work:
            put = _Put(known, manifest, reading.new, reading.new_disk, origin)
            artifact = _record(storage, artifact, put, work)
    if known is not None and unchanged:
        return PutResult(known, reading.new_bytes, unchanged=True, new=reading.new)
    replaced = known.tree if known else None
    return PutResult(artifact, reading.new_bytes, replaced=replaced, new=reading.new)


class _Put(NamedTuple):
    """What is about to be recorded: a tree in place of the artifact `known`, from `origin`.

    `new` contents of it were not there, which take about `new_disk` bytes.
    """

    known: Artifact | None
    manifest: Manifest
    new: int
    new_disk: int
    origin: str

    def event(self, artifact: Artifact, layer: int) -> Event:
        """Return what is to be logged; its layer and link take `layer` bytes that were not."""
        kind, what = EventKind.PUT, f"from {self.origin}"
        if self.known is not None and self.known.tree == artifact.tree:
            kind = EventKind.REPAIRED  # its layer was gone
        elif self.known is not None:
            what += f", in place of {self.known.tree}"
        size = max(0, self.new_disk + layer)
        return new_event(kind, artifact.signature, tree=artifact.tree, size=size, what=what)


def _record(storage: StoreParts, artifact: Artifact, put: _Put, work: Scratch) -> Artifact:
    """Build the layer if there is none to trust, and record the artifact in place of what was.

    Returns the artifact with the disk space that its layer takes.
    """
    tree, known, manifest = artifact.tree, put.known, put.manifest
    built = not _trustworthy(storage, tree, doubt=put.new > 0)  # if there is one, it lacks them
    if built:
        storage.layers.build(manifest, work)
        taken = overhead(manifest, b"layer", b"manifest", work.fd)
    else:
        try:
            taken = overhead(manifest, layer_path(tree), manifest_path(tree), storage.fd)
        except FileNotFoundError as error:
            if storage.layers.exists(tree):
                _refuse_damaged(storage, tree)
            raise ConcurrentChange from error
    artifact = artifact._replace(overhead=taken)
    with storage.index.locked(exclusive=True), signals_blocked():
        had_layer = storage.layers.exists(tree)
        if built:
            storage.layers.publish(tree, work)
        elif not had_layer:
            raise ConcurrentChange
        with storage.index.transaction() as writer:
            if writer.get(artifact.signature) != known:
                raise ConcurrentChange
            size = artifact_links.make(storage.fd, artifact, work)
            writer.put(artifact)
        append_events(storage.fd, [put.event(artifact, size + (0 if had_layer else taken))])
    return artifact


def _refuse_damaged(storage: StoreParts, tree: Digest) -> None:
    """Read a layer of which something was not there, or not what it was.

    Raises StoreDamaged, ConcurrentChange (it is gone).
    """
    try:
        damaged = any(storage.layers.problems(tree))
    except FileNotFoundError as error:
        raise ConcurrentChange from error
    if damaged:
        where = quoted(os.path.join(storage.path, layer_path(tree)))
        hint = "`cas verify` tells what is, and `cas verify --repair` makes it again"
        raise StoreDamaged(f"the layer {where} is damaged", hint=hint)


def _trustworthy(storage: StoreParts, tree: Digest, *, doubt: bool) -> bool:
    """Tell whether the tree's layer is there and whole.

    A damaged one of an earlier boot is taken out of the way. One of this boot is read if there is
    `doubt`, and somebody may use it. Raises StoreDamaged, ConcurrentChange, OSError.
    """
    with storage.index.read() as reader:
        marks = _marks(reader, tree)
    if not storage.layers.exists(tree):
        return False
    if marks & {None, boot_id()}:
        if doubt:
            _refuse_damaged(storage, tree)
        return True
    with contextlib.suppress(FileNotFoundError, StoreDamaged):
        if next(storage.layers.problems(tree), None) is None:
            return True
    with scratch(storage.fd, "damaged") as aside, storage.index.locked(exclusive=True):
        with storage.index.transaction() as reader:
            if _marks(reader, tree) != marks:  # another put made it again
                raise ConcurrentChange
        storage.layers.withdraw(tree, aside)
    return False


def _marks(reader: Reader, tree: Digest) -> set[str | None]:
    """Return in which boots the artifacts that are a tree were put."""
    return {artifact.boot_id for artifact in reader.of_tree(tree)}


def _artifact(signature: Signature, tree: Digest, reading: ScanResult) -> Artifact:
    return Artifact(
        signature=signature,
        tree=tree,
        files=reading.kinds[Kind.FILE],
        directories=reading.kinds[Kind.DIRECTORY],
        symlinks=reading.kinds[Kind.SYMLINK],
        size=reading.size,
        overhead=0,
        created_ns=time.time_ns(),
        boot_id=boot_id(),
        dropped=reading.dropped,
    )


def _refuse_root(root: bytes, store: bytes) -> None:
    where = quoted(root)
    what = None
    try:
        if not stat.S_ISDIR(os.stat(root).st_mode):
            what = "is not a directory"
    except FileNotFoundError:
        what = "does not exist"
    if what is not None:
        hint = f"give the directory that the task made, or a tar archive ({', '.join(SUFFIXES)})"
        raise InputRefused(f"{where} {what}", hint=hint)
    if is_within(root, store) or is_within(store, root):
        raise InputRefused(
            f"{where} and the store {quoted(store)} are one in the other",
            hint="give a directory that is outside of the store and does not hold it",
        )
