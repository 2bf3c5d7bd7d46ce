"""Stores a tree: contents become objects, then a layer, then a record."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from cas.content.differences import iter_differences
from cas.content.digest import hash_bytes
from cas.content.objects import ConcurrentChange, Objects
from cas.disk.boot import boot_id
from cas.disk.leases import Lease
from cas.disk.log import Event, EventKind, append_events, new_event
from cas.disk.scratch import Scratch, scratch
from cas.errors import CasError, ExitCode, InputRefused
from cas.index import artifact_links
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.model.manifest import Digest, Kind, Manifest
from cas.model.signature import Signature
from cas.put.consume import consume
from cas.put.existing_layer import has_good_layer
from cas.put.journal import Journal
from cas.put.scan_result import Place, ScanResult
from cas.put.source_tree import read_tree, refuse_root
from cas.system.compression import is_archive
from cas.system.debug_log import debug
from cas.system.directories import open_directory
from cas.system.progress import Progress
from cas.system.signals import signals_blocked
from cas.system.text import quoted

_MAX_DIFFERENCES_SHOWN = 10
Source = Callable[[Objects, Journal], ScanResult]
"""Reads a tree and stores its contents as objects; the journal can undo that."""


class SignatureConflict(CasError):
    """The ID is stored with another tree; `differences` lists the paths, as text."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, signature: Signature, differences: list[str]) -> None:
        self.differences = differences
        shown = "".join(f"\n  {line}" for line in differences[:_MAX_DIFFERENCES_SHOWN])
        left_out = len(differences) - _MAX_DIFFERENCES_SHOWN
        rest = f"\n  … and {left_out} more" if left_out > 0 else ""
        super().__init__(
            f"{signature} is stored with another tree; these paths differ:{shown}{rest}",
            hint="the task is not reproducible; use --replace to store the new tree",
        )


class PutResult(NamedTuple):
    """The result of a put.

    `new` contents of `new_bytes` bytes were not stored before. `unchanged` means that the ID had
    the same tree already; `replaced` is the tree that it had instead, or None.
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
    """Store the directory or tar archive `tree` under an ID that has the artifact `known` now.

    A path with the suffix of a tar archive is stored as the tree that tar(1) would extract. With
    `move`, the directory is consumed: its files become objects if that is safe, and it is removed
    at the end. `place` maps paths of an archive, or of a directory that is not moved, to paths of
    the stored tree. `progress` counts files. If this raises, nothing is stored, and the directory
    is as before.

    Raises InputRefused (with the path that cannot be stored), SignatureConflict unless `replace`,
    TreeLeftOver (stored, but a moved tree is not completely removed), ArchiveRefused, NoZstd,
    CasError, OSError; and ConcurrentChange: retry with the artifact that the ID has then.
    """
    path = os.fsencode(tree)
    if is_archive(path) and not os.path.isdir(path):
        from cas.put.source_archive import read_archive

        if move:
            raise InputRefused(
                f"{quoted(path)} is an archive, which cannot be moved into the store",
                hint="store it without --move, and delete it then",
            )
        path = os.path.abspath(path)
        source = partial(read_archive, path, place, progress)
        return put_source(storage, signature, known, source, os.fsdecode(path), replace=replace)
    root = os.path.realpath(path)
    refuse_root(root, storage.path)
    with open_directory(root) as fd, _journal(storage, signature, fd) as journal:
        scan = read_tree(root, fd, place, storage.objects, journal, move=move, progress=progress)
        put = _Put(storage, signature, known, os.fsdecode(root), scan)
        result = put.run(replace=replace)
        if move:
            with signals_blocked():
                # Forget first: the artifact is stored, so nothing is undone if consume raises.
                journal.forget()
                consume(root, fd, scan)
    return result


def put_source(
    storage: StoreParts,
    signature: Signature,
    known: Artifact | None,
    source: Source,
    origin: str,
    *,
    replace: bool = False,
) -> PutResult:
    """Store the tree that `source` reads under an ID that has the artifact `known` now.

    The log shows `origin` as the source of the tree. If this raises, nothing is stored. Raises
    SignatureConflict unless `replace`, CasError, OSError, the exceptions of `source`, and
    ConcurrentChange: retry with the artifact that the ID has then.
    """
    with _journal(storage, signature, storage.fd) as journal:
        scan = source(storage.objects, journal)
        return _Put(storage, signature, known, origin, scan).run(replace=replace)


@contextlib.contextmanager
def _journal(storage: StoreParts, signature: Signature, root_fd: int) -> Iterator[Journal]:
    """Yield a journal of the put; undo its entries if the block raises.

    `root_fd` is the root of the tree, whose files may have become objects. The lease, although on
    no tree, keeps the sweep of `cas gc` from objects that no layer links to yet.
    """
    purpose = f"put of {signature}"
    with Lease(storage.path, (), purpose=purpose), Journal() as journal:
        try:
            yield journal
        except BaseException:
            debug("%s failed, undoing its steps", purpose)
            with signals_blocked():
                journal.undo(root_fd, storage.objects)
            raise


@dataclass(frozen=True, slots=True)
class _Put:
    """The last part of a put: the contents are stored, the layer and the record are to follow."""

    storage: StoreParts
    signature: Signature
    known: Artifact | None
    origin: str
    scan: ScanResult

    def run(self, *, replace: bool) -> PutResult:
        """Store the layer and the record, unless they exist. Raises as `put_tree`."""
        known, scan = self.known, self.scan
        manifest = scan.manifest
        tree = hash_bytes(manifest.encode())
        unchanged = known is not None and known.tree == tree
        if known is not None and not unchanged and not replace:
            old = self._known_manifest(known)
            raise SignatureConflict(self.signature, list(map(str, iter_differences(old, manifest))))
        # New contents mean that an existing layer of this tree lacks them, or has damaged ones.
        has_layer = has_good_layer(self.storage, tree, doubt=scan.new > 0)
        if known is not None and unchanged and has_layer:
            debug("put: %s is unchanged", self.signature)
            return PutResult(known, scan.new_bytes, unchanged=True, new=scan.new)
        with scratch(self.storage.fd, "put") as work:
            artifact = self._record(tree, manifest, work, has_layer=has_layer)
        if known is not None and unchanged:
            return PutResult(known, scan.new_bytes, unchanged=True, new=scan.new)
        replaced = known.tree if known else None
        return PutResult(artifact, scan.new_bytes, replaced=replaced, new=scan.new)

    def _known_manifest(self, known: Artifact) -> Manifest:
        """Return the manifest of the ID's artifact. Raises ConcurrentChange if it was removed."""
        try:
            return self.storage.layers.manifest(known.tree)
        except FileNotFoundError as error:
            with self.storage.index.read() as reader:
                if reader.get(self.signature) == known:  # damaged
                    raise
            raise ConcurrentChange from error

    def _record(
        self, tree: Digest, manifest: Manifest, work: Scratch, *, has_layer: bool
    ) -> Artifact:
        """Build a missing layer, and make it and the record visible; return the artifact."""
        storage = self.storage
        if not has_layer:
            # Before the lock, which is then held for renames and one commit only.
            storage.layers.build(manifest, work)
        artifact = self._artifact(tree)
        with storage.index.locked(exclusive=True), signals_blocked():
            existed = storage.layers.exists(tree)
            if not has_layer:
                storage.layers.publish(tree, work)
            elif not existed:  # removed since has_good_layer found it
                raise ConcurrentChange
            with storage.index.transaction() as writer:
                if writer.get(artifact.signature) != self.known:  # another put of this ID
                    raise ConcurrentChange
                # The link comes before the commit: rebuild-index finds artifacts by their links.
                artifact_links.make_link(storage.fd, artifact, work)
                writer.put(artifact)
            append_events(
                storage.fd, [self._event(artifact, 0 if existed else artifact.layer_bytes)]
            )
        debug("put: recorded %s, tree %s", artifact.signature, tree)
        return artifact

    def _artifact(self, tree: Digest) -> Artifact:
        scan = self.scan
        return Artifact(
            signature=self.signature,
            tree=tree,
            files=scan.kinds[Kind.FILE],
            directories=scan.kinds[Kind.DIRECTORY],
            symlinks=scan.kinds[Kind.SYMLINK],
            size=scan.size,
            created_ns=time.time_ns(),
            boot_id=boot_id(),
            dropped=scan.dropped,
        )

    def _event(self, artifact: Artifact, layer_bytes: int) -> Event:
        """Return the event to log; the new layer takes `layer_bytes`, or 0 if it existed."""
        kind, what = EventKind.PUT, f"from {self.origin}"
        if self.known is not None and self.known.tree == artifact.tree:
            kind = EventKind.REPAIRED  # the record existed without its layer
        elif self.known is not None:
            what += f", in place of {self.known.tree}"
        size = max(0, self.scan.new_disk + layer_bytes)
        return new_event(kind, artifact.signature, tree=artifact.tree, size=size, what=what)
