"""Comparing all of a store with its records."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set

from cas import links, mounts
from cas.artifact import Artifact
from cas.contents import Content, Progress, content_name, content_path, damaged_contents
from cas.dirs import opened, walk
from cas.errors import StoreDamaged
from cas.findings import FaultKind, Finding
from cas.lastuse import TICK_NS
from cas.layercheck import LayerFile, compare
from cas.layout import (
    DIRECTORIES,
    EMPTY,
    FILES,
    artifact_path,
    content_of,
    layer_path,
    manifest_path,
)
from cas.manifest import BadManifest, Digest, Manifest, is_digest
from cas.signature import Signature
from cas.storage import Storage

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
        self._began_ns = time.time_ns() - TICK_NS
        self._names: dict[Digest, list[str]] = {tree: [] for tree in merged}
        for artifact in artifacts:
            self._names.setdefault(artifact.tree, []).append(str(artifact.signature))
        self._contents: dict[int, Content] = {}
        self._doubtful: list[Content] = []
        self._links: Counter[int] = Counter()  # by inode number: how many the store made,
        self._all_counted = True  # but for what is in directories that this user may not read
        self._had: dict[int, int] = {}  # and how many there are; 0 if that changes just now

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
                for seen in compare(fd, manifest, stamped=self._storage.objects.keep_stamps):
                    if isinstance(seen, LayerFile):
                        self._note(seen, base, tree)
                    else:
                        yield self._of(seen.kind, base + b"/" + seen.path, seen.what, tree)
            self._compared.add(tree.encode())
        except FileNotFoundError:
            yield self._of(FaultKind.LAYER, base, "is missing", tree)
        except PermissionError:
            what = "has a directory that this user may not read"
            yield self._of(FaultKind.ENTRY, base, what, tree)

    def _note(self, file: LayerFile, base: bytes, tree: Digest) -> None:
        """Note a file's link; and its content, if another file does not say the same."""
        found, name = file.found.stat, content_name(file.node)
        inode = found.st_ino
        self._links[inode] += 1
        self._had[inode] = self._links_of(found)
        known = self._contents.get(inode)
        if known is None or known.name != name:
            content = Content(name, base + b"/" + file.found.path, found.st_size, tree)
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
            what = self._link_fault(artifact)
            if what is not None:
                with self._storage.index.read() as reader:  # it may have been replaced meanwhile
                    current = reader.get(artifact.signature) == artifact
                    what = self._link_fault(artifact) if current else None
            if what is not None:
                yield Finding(FaultKind.LINK, path, what, names)

    def _link_fault(self, artifact: Artifact) -> str | None:
        try:
            target = os.readlink(artifact_path(artifact.signature), dir_fd=self._storage.fd)
        except FileNotFoundError:
            return "is missing"
        except OSError:
            return "is no symbolic link"
        return None if target == b"../../" + layer_path(artifact.tree) else "leads to another layer"

    def _objects(self) -> Iterator[Finding]:
        """Compare the names of contents with what layers link to."""
        self._count_other_links()
        named: set[bytes] = set()
        with opened(b"objects", self._storage.fd) as root:
            for path, entry in _entries(root):
                name = content_of(path)
                if name is None:
                    what = "is not the name of a content"
                    yield Finding(FaultKind.STRAY, b"objects/" + path, what)
                    continue
                named.add(name)
                inode = entry.inode()
                known = self._contents.get(inode)
                if known and known.name == name and self._had[inode] <= self._links[inode] + 1:
                    continue  # as are nearly all
                with contextlib.suppress(FileNotFoundError):  # it is deleted just now
                    yield from self._object(name, b"objects/" + path, entry)
        for content in self._contents.values():
            if content.name not in named and content.tree is not None:
                what = "is missing, but layers have it"
                yield self._of(FaultKind.OBJECT, content_path(content.name), what, content.tree)

    def _object(self, name: bytes, path: bytes, entry: os.DirEntry[str]) -> Iterator[Finding]:
        found = entry.stat(follow_symlinks=False)  # after all links were counted
        known = self._contents.get(found.st_ino)
        if known is None or known.name != name:
            self._doubtful.append(Content(name, path, found.st_size))
        extra = self._links_of(found) - 1 - self._links[found.st_ino]
        if extra > 0 and self._all_counted:
            what = f"has {extra} more links than the store made"
            yield self._of(FaultKind.LINKS, path, what, *self._users(name))

    def _links_of(self, found: os.stat_result) -> int:
        return found.st_nlink if found.st_ctime_ns < self._began_ns else 0

    def _count_other_links(self) -> None:
        """Count the links of linked sysroots, work in progress and layers not compared.

        Something may be counted twice, but not missed: the lock keeps layers where they are, and
        staging directories, which become targets, are looked at before and after those.
        """
        store = self._storage.path
        layers = os.path.join(store, b"layers")
        with self._storage.index.locked(exclusive=False):
            self._count_links(os.path.join(store, b"tmp"))
            for name in set(os.listdir(layers)) - self._compared:
                self._count_links(os.path.join(layers, name))
        with contextlib.suppress(StoreDamaged):  # told of elsewhere
            for record in mounts.all_records(store):
                if record.strategy == "hardlink":
                    for place in (record.staging, record.target, record.staging):
                        self._count_links(os.fsencode(place or ""))

    def _count_links(self, place: bytes) -> None:
        try:
            with opened(place) as fd:
                for node in walk(fd, vanishing=True):
                    if stat.S_ISREG(node.stat.st_mode):
                        self._links[node.stat.st_ino] += 1
        except (FileNotFoundError, NotADirectoryError):
            pass
        except PermissionError:
            self._all_counted = False

    def _strays(self) -> Iterator[Finding]:
        """Look for what is not the name of anything, and for links without a record."""
        ours = {os.fsencode(name) for name in (*DIRECTORIES, *FILES)}
        for name in sorted(map(os.fsencode, os.listdir(self._storage.fd))):
            if name not in ours:
                yield Finding(FaultKind.STRAY, name, "does not belong to a store")
        yield from self._foreign()
        for directory in (b"layers", b"manifests"):
            with opened(directory, self._storage.fd) as fd:
                for text in sorted(os.listdir(fd)):
                    if not is_digest(text):
                        path = directory + b"/" + os.fsencode(text)
                        yield Finding(FaultKind.STRAY, path, "is not the name of a tree")
        recorded = {str(artifact.signature) for artifact in self._artifacts} | self._unread
        linked = (s for _, signatures in links.by_recipe(self._storage.fd) for s in signatures)
        for signature in [signature for signature in linked if str(signature) not in recorded]:
            with self._storage.index.read() as reader:  # it may have come meanwhile
                stray = reader.get(signature) is None
            if stray and self._is_linked(signature):
                path = artifact_path(signature)
                yield Finding(FaultKind.LINK, path, "has no record", (str(signature),))

    def _foreign(self) -> Iterator[Finding]:
        """Look for what is in the empty directories, and for recipes that are no directories."""
        for directory in EMPTY:
            with opened(directory, self._storage.fd) as fd:
                for name in sorted(map(os.fsencode, os.listdir(fd))):
                    what = "is in a directory that has to be empty"
                    yield Finding(FaultKind.FOREIGN, directory + b"/" + name, what)
        with opened(b"artifacts", self._storage.fd) as fd, os.scandir(fd) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.is_dir(follow_symlinks=False):
                    path = b"artifacts/" + os.fsencode(entry.name)
                    yield Finding(FaultKind.FOREIGN, path, "is no directory")

    def _is_linked(self, signature: Signature) -> bool:
        try:
            os.stat(artifact_path(signature), dir_fd=self._storage.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

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


def _entries(objects_fd: int) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
    """Yield the path of everything in `objects/`, and in what is there, without a stat(2) of it."""
    with os.scandir(objects_fd) as fans:
        for fan in fans:
            prefix = os.fsencode(fan.name)
            try:
                with opened(prefix, objects_fd) as fd, os.scandir(fd) as entries:
                    for entry in entries:
                        yield prefix + b"/" + os.fsencode(entry.name), entry
            except NotADirectoryError:
                yield prefix, fan
