"""The store: a directory of objects, layers and manifests, and the index that names them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cas import put
from cas.artifact import Artifact
from cas.boot import boot_id
from cas.closing import Closing
from cas.compose import distinct
from cas.dirs import OPEN_DIRECTORY
from cas.errors import CasError, InputRefused, InUse, StoreDamaged
from cas.index import Index, Reader
from cas.layers import Layers
from cas.layout import DIRECTORIES, FILES, FORMAT, layer_path
from cas.leases import Lease, Use, live_leases
from cas.manifest import Digest, Manifest
from cas.mounts import mounted_uses
from cas.objects import Objects, Overtaken
from cas.quoting import quoted
from cas.scratch import scratch
from cas.signature import AmbiguousSignature, BadSignature, NoSuchSignature, Signature

StrPath = str | bytes | os.PathLike[str]


class NoStore(CasError):
    """There is no store at a path, because nothing was put there yet."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"there is no store at {quoted(path)}", hint="the first `cas put` makes it"
        )


class StoreTooNew(StoreDamaged):
    """The store was written by a version of this program that does more than this one."""


@dataclass(frozen=True, slots=True)
class Composition(Closing):
    """Artifacts to be seen as one tree, a later one over the earlier ones.

    Owns a lease: nothing of it is collected until it is closed. `store` is the store's path.
    """

    store: bytes
    artifacts: tuple[Artifact, ...]
    lease: Lease

    @property
    def trees(self) -> tuple[Digest, ...]:
        """The trees to lay over each other, lowest first, each once."""
        return distinct(artifact.tree for artifact in self.artifacts)

    def close(self) -> None:
        """End the lease."""
        self.lease.close()


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
            _create(self.path)
        _check_format(self.path)
        self.fd = os.open(self.path, OPEN_DIRECTORY)
        try:
            self._index = Index(os.path.join(self.path, b"index"), self._lock_path)
            self._objects = Objects(self.fd)
            self._layers = Layers(self.fd, self._objects)
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
        storage = put.Storage(self.path, self.fd, self._index, self._objects, self._layers)
        while True:
            known = self.find(signature)
            with contextlib.suppress(Overtaken):
                done = put.put_tree(storage, signature, tree, known, move=move, replace=replace)
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
        return self._layers.manifest(artifact.tree)

    def layer_path(self, artifact: Artifact) -> bytes:
        """Return the absolute path of an artifact's layer. It must not be written to."""
        return os.path.join(self.path, layer_path(artifact.tree))

    def compose(self, names: Iterable[str]) -> Composition:
        """Compose the artifacts of signatures or abbreviations, a later one over the earlier.

        The composition holds a lease and must be closed. Raises NoSuchSignature (which names all
        that are missing), AmbiguousSignature, StoreDamaged, OSError.
        """
        names = list(names)
        with self._index.read() as reader:
            artifacts = self._resolve(reader, names)
            lease = Lease(self.path, distinct(artifact.tree for artifact in artifacts))
        try:
            trusted = [self._trusted(artifact) for artifact in artifacts]
            lost = [name for name, found in zip(names, trusted, strict=True) if found is None]
            if lost:
                raise NoSuchSignature(lost, quoted(self.path))
        except BaseException:
            lease.close()
            raise
        return Composition(self.path, tuple(a for a in trusted if a is not None), lease)

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

    def _resolve(self, reader: Reader, names: list[str]) -> list[Artifact]:
        found = [(name, _lookup(reader, name)) for name in names]
        missing = [name for name, artifact in found if artifact is None]
        if missing:
            raise NoSuchSignature(missing, quoted(self.path))
        return [artifact for _, artifact in found if artifact is not None]

    def _trusted(self, artifact: Artifact) -> Artifact | None:
        """Check an artifact of an earlier boot, whose data a power failure may have taken.

        Returns the artifact, marked as safe on disk; or None, and forgets it, if it is damaged.
        """
        if artifact.boot_id in (None, boot_id()):
            return artifact
        try:
            damage = next(self._layers.problems(artifact.tree), None)
        except (FileNotFoundError, StoreDamaged) as error:
            damage = str(error)
        checked = replace(artifact, boot_id=None)
        with self._index.write() as writer:
            if writer.get(artifact.signature) == artifact:
                if damage is None:
                    writer.put(checked)
                else:
                    writer.delete(artifact.signature)
                    put.unlink_artifact(self.fd, artifact.signature)
        return checked if damage is None else None


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


def _create(path: bytes) -> None:
    """Make an empty store. The format file comes last: with it, the store is whole."""
    os.makedirs(path, exist_ok=True)
    foreign = {os.fsdecode(name) for name in os.listdir(path)} - {*DIRECTORIES, *FILES}
    if foreign:
        raise InputRefused(
            f"{quoted(path)} is no store and not empty (it has {quoted(min(foreign))})",
            hint="give an empty or a new directory as the store",
        )
    fans = [f"objects/{number:02x}" for number in range(256)]
    for name in (*DIRECTORIES, *fans):
        os.makedirs(os.path.join(path, name.encode()), exist_ok=True)
    lock = os.path.join(path, b"lock")
    os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    Index(os.path.join(path, b"index"), lock, create=True).close()
    unfinished = os.path.join(path, f"tmp/format-{os.getpid()}-{os.urandom(8).hex()}".encode())
    with open(unfinished, "w") as file:
        file.write(FORMAT + "\n")
    os.rename(unfinished, os.path.join(path, b"format"))


def _check_format(path: bytes) -> None:
    with open(os.path.join(path, b"format"), "rb") as file:
        line = file.read(200).decode(errors="replace").rstrip("\n")
    magic, _, version = FORMAT.rpartition(" ")
    found_magic, _, found = line.rpartition(" ")
    if found_magic != magic or not found.isdecimal():
        raise StoreDamaged(f"{quoted(path)} is no store: its format file says {line!r}")
    if int(found) > int(version):
        raise StoreTooNew(
            f"the store {quoted(path)} has format {found}; this cas knows formats up to {version}",
            hint="use a newer cas, or another store",
        )
