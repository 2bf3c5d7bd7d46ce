"""The store: a directory of objects, layers and manifests, and the index that names them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cas import put
from cas.artifact import Artifact
from cas.boot import boot_id
from cas.closing import Closing
from cas.compose import Wanted, distinct, in_order
from cas.composition import Composition, find_conflicts
from cas.conflicts import Conflict, ConflictPolicy, judge
from cas.dirs import OPEN_DIRECTORY
from cas.errors import InputRefused, InUse, StoreDamaged
from cas.format import NoStore, check_format, make_store
from cas.index import Index, Reader
from cas.known import Known
from cas.layers import Layers
from cas.layout import layer_path
from cas.leases import Lease, Use, live_leases
from cas.manifest import Digest, Manifest
from cas.merged import Merging
from cas.mounts import mounted_uses
from cas.objects import Objects, Overtaken
from cas.quoting import quoted
from cas.scratch import scratch
from cas.signature import AmbiguousSignature, BadSignature, NoSuchSignature, Signature

StrPath = str | bytes | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Removed:
    """`artifacts` were forgotten; `freed` bytes of disk came back from contents."""

    artifacts: tuple[Artifact, ...]
    freed: int


class Store(Closing):
    """An open store. Use it as a context manager, or close it; not across fork(2)."""

    def __init__(self, path: StrPath, *, create: bool = False) -> None:
        """Open the store in the directory `path`; with `create`, make it if it is not there.

        Raises NoStore, StoreTooNew, StoreDamaged, InputRefused, OSError.
        """
        self.path = os.path.realpath(os.fsencode(path))
        try:
            os.stat(os.path.join(self.path, b"format"))
        except NotADirectoryError as error:
            where = quoted(self.path)
            hint = "give the store's directory"
            raise InputRefused(f"{where} is not a directory", hint=hint) from error
        except FileNotFoundError:
            if not create:
                raise NoStore(self.path) from None
            make_store(self.path)
        check_format(self.path)
        self.fd = os.open(self.path, OPEN_DIRECTORY)
        try:
            self._index = Index(os.path.join(self.path, b"index"), self._lock_path)
            self._objects = Objects(self.fd)
            self._layers = Layers(self.fd, self._objects)
            self._known = Known(self.path)
            self._storage = put.Storage(
                self.path, self.fd, self._index, self._objects, self._layers
            )
            self._merging = Merging(self._storage, self._known)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Close the store."""
        self._index.close()
        os.close(self.fd)

    def put(
        self,
        signature: str | Signature,
        tree: StrPath,
        *,
        move: bool = False,
        replace: bool = False,
    ) -> put.PutResult:
        """Store the directory `tree` under a whole signature; see `cas.put.put_tree`."""
        if isinstance(signature, str):
            signature = Signature.parse(signature)
        while True:
            known = self.find(signature)
            with contextlib.suppress(Overtaken):
                done = put.put_tree(
                    self._storage, signature, tree, known, move=move, replace=replace
                )
                break
        if done.replaced is not None:
            self._discard({done.replaced})
        return done

    def find(self, signature: str | Signature) -> Artifact | None:
        """Return the artifact of a whole signature, or None. Raises BadSignature, StoreDamaged."""
        if isinstance(signature, str):
            signature = Signature.parse(signature)
        with self._index.read() as reader:
            found = reader.get(signature)
        return None if found is None else self._trusted(found)

    def resolve(self, text: str) -> Artifact:
        """Return the artifact that a signature or an unambiguous abbreviation names.

        Raises NoSuchSignature, AmbiguousSignature, StoreDamaged.
        """
        with self._index.read() as reader:
            (found,) = self._resolve(reader, [text])
        trusted = self._trusted(found)
        if trusted is None:
            raise NoSuchSignature([text], quoted(self.path))
        return trusted

    def artifacts(self) -> list[Artifact]:
        """Return every artifact, in the order of signatures. Raises StoreDamaged."""
        with self._index.read() as reader:
            return list(reader.all())

    def manifest(self, artifact: Artifact) -> Manifest:
        """Return what an artifact consists of. Raises BadManifest, OSError."""
        return self.tree(artifact.tree)

    def tree(self, tree: Digest) -> Manifest:
        """Return what a stored tree consists of. Raises BadManifest, OSError."""
        return self._layers.manifest(tree)

    def layer_path(self, artifact: Artifact) -> bytes:
        """Return the absolute path of an artifact's layer. It must not be written to."""
        return os.path.join(self.path, layer_path(artifact.tree))

    def compose(
        self,
        names: Iterable[str],
        *,
        conflicts: ConflictPolicy | None = ConflictPolicy.WARN,
        allow: Sequence[str] = (),
        purpose: str = "",
    ) -> Composition:
        """Compose the artifacts of signatures or abbreviations, a later one over the earlier.

        A name may end in `@N`, its priority (default 0): higher ones come later. Conflicts at
        paths that no pattern of `allow` matches are dealt with as `conflicts` says; see
        `cas.conflicts.judge`; with None they are not looked for. `purpose` tells people who look
        at leases what it is for.

        The composition holds a lease and must be closed. Raises BadSignature, NoSuchSignature
        (which names all that are missing), AmbiguousSignature, ConflictRefused, StoreDamaged,
        OSError.
        """
        wanted = in_order(names)
        while True:
            with self._index.read() as reader:
                artifacts = self._resolve(reader, [w.name for w in wanted])
                trees = distinct(artifact.tree for artifact in artifacts)
                ids = tuple(
                    str(replace(w, name=str(a.signature)))
                    for w, a in zip(wanted, artifacts, strict=True)
                )
                layers = self._merging.layers(trees)
                named = zip(ids, (artifact.tree for artifact in artifacts), strict=True)
                lease = Lease(self.path, {*trees, *(layers or ())}, named, purpose)
            try:
                self._check(wanted, artifacts)
                told: tuple[Conflict, ...] = ()
                if conflicts is not None:
                    found = find_conflicts(artifacts, self._layers, self._known)
                    told = judge(found, conflicts, allow)
                if layers is None:
                    self._merging.make(trees)
                elif self._merging.trust(layers, trees):
                    return Composition(self.path, ids, tuple(artifacts), layers, told, lease)
            except BaseException:
                lease.close()
                raise
            lease.close()

    def remove(self, names: Iterable[str]) -> Removed:
        """Forget artifacts; give back the space that nothing else uses.

        Raises NoSuchSignature, AmbiguousSignature, InUse (then nothing was removed), OSError.
        """
        with self._index.locked(exclusive=True):
            with self._index.transaction() as writer:
                artifacts = tuple(dict.fromkeys(self._resolve(writer, list(names))))
                self._refuse_used(artifacts)
                for artifact in artifacts:
                    writer.delete(artifact.signature)
            for artifact in artifacts:
                put.unlink_artifact(self.fd, artifact.signature)
        return Removed(artifacts, self._discard({artifact.tree for artifact in artifacts}))

    def uses(self) -> list[Use]:
        """Return what living processes and mounts use. Raises OSError, StoreDamaged."""
        return [*live_leases(self.path), *mounted_uses(self.path)]

    def problems(self, *, contents: bool = False) -> Iterator[str]:
        """Yield what is wrong with any artifact, as text. Raises OSError, StoreDamaged.

        Looks whether layers and manifests are there; with `contents`, reads all of them.
        """
        for artifact in self.artifacts():
            if not self._layers.exists(artifact.tree):
                yield f"{artifact.signature}: its layer or manifest is missing"
            elif contents:
                for problem in self._layers.problems(artifact.tree):
                    yield f"{artifact.signature}: {problem}"

    @property
    def _lock_path(self) -> bytes:
        return os.path.join(self.path, b"lock")

    def _discard(self, trees: set[Digest]) -> int:
        """Delete those trees that no record names and nobody uses; return the bytes freed."""
        with scratch(self.fd, "rm") as aside:
            with self._index.locked(exclusive=True):
                used = {tree for use in self.uses() for tree in use.trees}
                with self._index.transaction() as reader:
                    idle = [t for t in trees if t not in used and not reader.of_tree(t)]
                    for tree in idle:
                        self._layers.withdraw(tree, aside)
                    for merged in self._merging.unneeded(used):
                        self._known.forget_merged(merged)
                        if not reader.of_tree(merged.tree):
                            self._layers.withdraw(merged.tree, aside)
                            idle.append(merged.tree)
            return sum(self._layers.reclaim(tree, aside) for tree in idle)

    def _refuse_used(self, artifacts: tuple[Artifact, ...]) -> None:
        uses = self.uses()
        for artifact in artifacts:
            for use in uses:
                if artifact.tree in use.trees:
                    raise InUse(
                        f"{artifact.signature} is in use by {use.what}",
                        hint="unmount it (`cas umount`), or wait for the task to end",
                    )

    def _check(self, wanted: Sequence[Wanted], artifacts: Sequence[Artifact]) -> None:
        """Make sure that artifacts can be trusted. Raises NoSuchSignature."""
        trusted = map(self._trusted, artifacts)
        lost = [w.name for w, found in zip(wanted, trusted, strict=True) if found is None]
        if lost:
            raise NoSuchSignature(lost, quoted(self.path))

    def _resolve(self, reader: Reader, names: list[str]) -> list[Artifact]:
        found = [(name, _lookup(reader, name)) for name in names]
        missing = [name for name, artifact in found if artifact is None]
        if missing:
            raise NoSuchSignature(missing, quoted(self.path))
        return [artifact for _, artifact in found if artifact is not None]

    def _trusted(self, artifact: Artifact) -> Artifact | None:
        """Check an artifact of an earlier boot, whose data a power failure may have taken.

        Returns the artifact, marked as safe on disk; or None, and forgets it, if it is damaged.
        In a store that cannot be written, it is checked each time.
        """
        if artifact.boot_id in (None, boot_id()):
            return artifact
        try:
            damage = next(self._layers.problems(artifact.tree), None)
        except (FileNotFoundError, StoreDamaged) as error:
            damage = str(error)
        checked = replace(artifact, boot_id=None) if damage is None else None
        if self._index.writable:
            with self._index.write() as writer:
                if writer.get(artifact.signature) == artifact:
                    if checked is not None:
                        writer.put(checked)
                    else:
                        writer.delete(artifact.signature)
                        put.unlink_artifact(self.fd, artifact.signature)
        return checked


def _lookup(reader: Reader, text: str) -> Artifact | None:
    """Return what a signature or abbreviation names. Raises AmbiguousSignature."""
    with contextlib.suppress(BadSignature):
        exact = reader.get(Signature.parse(text))
        if exact is not None:
            return exact
    candidates = reader.like(text)
    for cut_hash in (False, True):
        matching = [s for s in candidates if s.matches(text, cut_hash=cut_hash)]
        if len(matching) > 1:
            raise AmbiguousSignature(text, matching)
        if matching:
            return reader.get(matching[0])
    return None
