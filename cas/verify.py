"""Verification: is everything in the store what it should be?

A quick one looks at names, sizes, modes, times and links; a full one reads and hashes every
content, once. Both change nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from cas import links, mounts
from cas.artifact import Artifact
from cas.contents import Content, Progress, content_name, content_path, damaged_contents
from cas.dirs import opened, walk
from cas.errors import StoreDamaged
from cas.findings import FaultKind, Finding
from cas.known import Known
from cas.layercheck import LayerFile, compare
from cas.layout import DIRECTORIES, FILES, artifact_path, is_object_path, layer_path, manifest_path
from cas.leases import Lease, NoLease, held_leases
from cas.manifest import BadManifest, Digest, Manifest, is_digest
from cas.pins import Pins
from cas.put import Storage
from cas.resolve import resolve
from cas.signature import BadSignature, Signature


def verify(
    storage: Storage, known: Known, names: Iterable[str], *, quick: bool, progress: Progress
) -> Iterator[Finding]:
    """Yield what is wrong; see `Store.verify`. `storage` and `known` are borrowed."""
    names = list(names)
    damaged: list[Finding] = []
    with storage.index.read() as reader:
        if names:
            artifacts = resolve(reader, names, storage.path)
        else:
            artifacts = list(_decoded(reader.records(), damaged))
            if not reader.is_consistent():
                what = "finds other artifacts by hash or tree than it has (`cas rebuild-index`)"
                damaged.append(Finding(FaultKind.INDEX, b"index/data.mdb", what))
        remembered = () if names else known.all_merged()
        merged = [m.tree for m in remembered if storage.layers.exists(m.tree)]
        trees = {*merged, *(artifact.tree for artifact in artifacts)}
        lease = _lease(storage.path, trees)
    with lease:
        yield from damaged
        if not names:
            yield from _state(storage.path)
        unread = {name for found in damaged for name in found.signatures}
        verification = Verification(storage, artifacts, merged, unread, whole=not names)
        yield from verification.run(quick=quick, progress=progress)


def _lease(store: bytes, trees: Iterable[str]) -> contextlib.AbstractContextManager[object]:
    try:
        return Lease(store, trees, purpose="verify")
    except NoLease:
        return contextlib.nullcontext()  # who may only read verifies what nothing holds


def _decoded(records: Iterable[tuple[bytes, bytes]], damaged: list[Finding]) -> Iterator[Artifact]:
    for key, data in records:
        name = key.decode(errors="replace")
        try:
            yield Artifact.decode(Signature.parse(name), data)
        except (StoreDamaged, BadSignature) as error:
            what = f"has a record that makes no sense: {error.message}"
            damaged.append(Finding(FaultKind.INDEX, b"index/data.mdb", what, (name,)))


def _state(store: bytes) -> Iterator[Finding]:
    """Read what is neither content nor record."""
    for name, read in (
        (b"pins", Pins(store).all),
        (b"mounts", lambda: list(mounts.all_records(store))),
        (b"leases", lambda: list(held_leases(store))),
    ):
        try:
            read()
        except StoreDamaged as error:
            yield Finding(FaultKind.STATE, name, f"are damaged: {error.message}")


_Counts = tuple[int, int, int, int]
"""Regular files, directories, symbolic links, and bytes of the files."""


def _counts(manifest: Manifest) -> _Counts:
    nodes = [node.split(b" ", 2) for node in manifest.nodes.values()]
    kinds = Counter(node[0] for node in nodes)
    size = sum(int(node[1]) for node in nodes if node[0] in (b"f", b"x"))
    return kinds[b"f"] + kinds[b"x"], kinds[b"d"], kinds[b"l"], size


class Verification:
    """Verifies artifacts and merged layers, on which the caller has a lease.

    `whole` tells whether they are all that there are, so that what is not theirs is a finding;
    but for those of `unread`, signatures whose records make no sense.
    """

    def __init__(
        self,
        storage: Storage,
        artifacts: Sequence[Artifact],
        merged: Sequence[Digest],
        unread: Set[str],
        *,
        whole: bool,
    ) -> None:
        self._storage = storage
        self._artifacts = artifacts
        self._unread = unread
        self._whole = whole
        self._compared: set[bytes] = set()
        self._began_ns = time.time_ns()
        self._names: dict[Digest, list[str]] = {tree: [] for tree in merged}
        for artifact in artifacts:
            self._names.setdefault(artifact.tree, []).append(str(artifact.signature))
        self._contents: dict[int, Content] = {}
        self._doubtful: list[Content] = []
        self._links: Counter[int] = Counter()

    def run(self, *, quick: bool, progress: Progress) -> Iterator[Finding]:
        """Yield what is wrong. Raises OSError."""
        counts: dict[Digest, _Counts] = {}
        for tree in self._names:
            yield from self._layer(tree, counts)
        yield from self._records(counts)
        if self._whole:
            yield from self._objects()
            yield from self._strays()
        if not quick:
            contents = [*self._contents.values(), *self._doubtful]
            for content, what in damaged_contents(self._storage.fd, contents, progress):
                users = self._users(content.name)
                yield self._of(FaultKind.CONTENT, content.path, what, *users)

    def _layer(self, tree: Digest, counts: dict[Digest, _Counts]) -> Iterator[Finding]:
        """Compare a layer with its manifest, and note its files."""
        try:
            manifest = self._storage.layers.manifest(tree)
        except FileNotFoundError:
            yield self._of(FaultKind.MANIFEST, manifest_path(tree), "is missing", tree)
            return
        except BadManifest as error:
            yield self._of(FaultKind.MANIFEST, manifest_path(tree), f"is damaged: {error}", tree)
            return
        counts[tree] = _counts(manifest)
        base = layer_path(tree)
        try:
            with opened(base, self._storage.fd) as fd:
                for seen in compare(fd, manifest):
                    if isinstance(seen, LayerFile):
                        self._note(seen, base, tree)
                    else:
                        yield self._of(seen.kind, base + b"/" + seen.path, seen.what, tree)
            self._compared.add(tree.encode())
        except FileNotFoundError:
            yield self._of(FaultKind.LAYER, base, "is missing", tree)

    def _note(self, file: LayerFile, base: bytes, tree: Digest) -> None:
        """Note a file's link; and its content, if another file does not say the same."""
        inode, name = file.found.stat.st_ino, content_name(file.node)
        self._links[inode] += 1
        known = self._contents.get(inode)
        if known is None or known.name != name:
            content = Content(name, base + b"/" + file.found.path, file.found.stat.st_size, tree)
            if known is None:
                self._contents[inode] = content
            else:
                self._doubtful.append(content)

    def _records(self, counts: Mapping[Digest, _Counts]) -> Iterator[Finding]:
        """Compare records with their manifests, and with their links."""
        for artifact in self._artifacts:
            path, names = artifact_path(artifact.signature), (str(artifact.signature),)
            has = counts.get(artifact.tree)
            said = (artifact.files, artifact.directories, artifact.symlinks, artifact.size)
            if has is not None and said != has:
                yield Finding(FaultKind.RECORD, path, "has other counts than its record", names)
            try:
                target = os.readlink(path, dir_fd=self._storage.fd)
            except FileNotFoundError:
                yield Finding(FaultKind.LINK, path, "is missing", names)
            except OSError:
                yield Finding(FaultKind.LINK, path, "is no symbolic link", names)
            else:
                if target != b"../../" + layer_path(artifact.tree):
                    yield Finding(FaultKind.LINK, path, "leads to another layer", names)

    def _objects(self) -> Iterator[Finding]:
        """Compare the names of contents with what layers link to."""
        self._count_other_links()
        named: set[bytes] = set()
        with opened(b"objects", self._storage.fd) as root:
            for node in walk(root, vanishing=True):
                path, found = b"objects/" + node.path, node.stat
                if stat.S_ISDIR(found.st_mode):
                    continue
                if not is_object_path(node.path):
                    yield Finding(FaultKind.STRAY, path, "is not the name of a content")
                    continue
                name = node.path.replace(b"/", b"")
                named.add(name)
                known = self._contents.get(found.st_ino)
                if known is None or known.name != name:
                    self._doubtful.append(Content(name, path, found.st_size))
                extra = found.st_nlink - 1 - self._links[found.st_ino]
                if extra > 0 and found.st_ctime_ns < self._began_ns:
                    what = f"has {extra} more links than the store made"
                    yield self._of(FaultKind.LINKS, path, what, *self._users(name))
        for content in self._contents.values():
            if content.name not in named and content.tree is not None:
                what = "is missing, but layers have it"
                yield self._of(FaultKind.OBJECT, content_path(content.name), what, content.tree)

    def _count_other_links(self) -> None:
        """Count the links of linked sysroots, work in progress and layers not compared."""
        store = self._storage.path
        places = [os.path.join(store, b"tmp")]
        layers = os.path.join(store, b"layers")
        places += [os.path.join(layers, name) for name in set(os.listdir(layers)) - self._compared]
        with contextlib.suppress(StoreDamaged):  # told of elsewhere
            for record in mounts.all_records(store):
                if record.strategy == "hardlink":
                    places += [os.fsencode(p) for p in (record.target, record.staging) if p]
        for place in places:
            try:
                with opened(place) as fd:
                    for node in walk(fd, vanishing=True):
                        if stat.S_ISREG(node.stat.st_mode):
                            self._links[node.stat.st_ino] += 1
            except (FileNotFoundError, NotADirectoryError):
                continue

    def _strays(self) -> Iterator[Finding]:
        """Look for what is not the name of anything, and for links without a record."""
        ours = {os.fsencode(name) for name in (*DIRECTORIES, *FILES)}
        for name in sorted(map(os.fsencode, os.listdir(self._storage.fd))):
            if name not in ours:
                yield Finding(FaultKind.STRAY, name, "does not belong to a store")
        for directory in (b"layers", b"manifests"):
            with opened(directory, self._storage.fd) as fd:
                for text in sorted(os.listdir(fd)):
                    if not is_digest(text):
                        path = directory + b"/" + os.fsencode(text)
                        yield Finding(FaultKind.STRAY, path, "is not the name of a tree")
        recorded = {str(artifact.signature) for artifact in self._artifacts} | self._unread
        for _, signatures in links.by_recipe(self._storage.fd):
            for signature in signatures:
                if str(signature) not in recorded:
                    path = artifact_path(signature)
                    yield Finding(FaultKind.LINK, path, "has no record", (str(signature),))

    def _of(self, kind: FaultKind, path: bytes, what: str, *trees: Digest) -> Finding:
        names = sorted(name for tree in trees for name in self._names[tree])
        return Finding(kind, path, what, tuple(names), trees)

    def _users(self, content: bytes) -> Iterator[Digest]:
        """Yield the trees that have a content."""
        for tree in self._names:
            with contextlib.suppress(OSError, StoreDamaged):
                manifest = self._storage.layers.manifest(tree)
                if content in map(content_name, manifest.nodes.values()):
                    yield tree
