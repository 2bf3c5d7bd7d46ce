"""Compares a whole store with its records."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from cas.content.census import Census, ContentFile, content_name, content_path
from cas.content.findings import FaultKind, Finding
from cas.content.hash_all import damaged_contents
from cas.content.layer_check import LayerCheck
from cas.disk import mount_records
from cas.disk.last_use import TICK_NS
from cas.disk.layout import (
    DIRECTORIES,
    EMPTY_LAYERS,
    FILES,
    artifact_path,
    content_of_object,
    layer_path,
    manifest_path,
)
from cas.errors import StoreDamaged
from cas.index import artifact_links
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.model.manifest import BadManifest, Digest, Manifest, is_digest
from cas.system.directories import open_directory, shortened_path, walk
from cas.system.progress import Progress
from cas.system.workers import run_parallel

_Counts = tuple[int, int, int, int]
"""Regular files, directories, symbolic links, and bytes of the files."""
_MERGED_LAYER_ENTRIES = 10_000
"""A typical number, to weigh the work."""


def _counts(manifest: Manifest) -> _Counts:
    nodes = manifest.nodes.values()
    kinds = Counter(node[:1] for node in nodes)
    size = sum(int(node[2:-65]) for node in nodes if node[:1] in (b"f", b"x"))
    return kinds[b"f"] + kinds[b"x"], kinds[b"d"], kinds[b"l"], size


@dataclass(frozen=True, slots=True)
class _Compared:
    """The result of comparing some layers; `complete` are those that were readable completely."""

    census: Census
    findings: list[Finding] = field(default_factory=list)
    counts: dict[Digest, _Counts] = field(default_factory=dict)
    complete: set[bytes] = field(default_factory=set)

    def add(self, other: _Compared) -> None:
        """Add the result for other layers."""
        self.census.add(other.census)
        self.findings.extend(other.findings)
        self.counts.update(other.counts)
        self.complete.update(other.complete)


class Verification:
    """Verifies artifacts and merged layers, on which the caller has a lease.

    If `whole`, they are all that the store has, so anything else in it is a finding, except for
    the IDs in `unread`, whose records are corrupt.
    """

    def __init__(
        self,
        storage: StoreParts,
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
        self._began_ns = time.time_ns() - TICK_NS
        self._names: dict[Digest, list[str]] = {tree: [] for tree in merged}
        for artifact in artifacts:
            self._names.setdefault(artifact.tree, []).append(str(artifact.signature))
        self._places: list[tuple[int, bytes]] = []  # inode numbers, and paths below objects/
        self._objects: dict[int, bytes] = {}  # one path for each inode
        self._irregular: set[int] = set()  # inodes of entries that are not regular files
        self._compared = _Compared(Census())
        self._all_counted = True  # false if this user may not read a linked sysroot

    def run(self, *, quick: bool, progress: Progress) -> Iterator[Finding]:
        """Yield the findings. Raises OSError, WorkerEnded."""
        if self._whole:
            self._places += self._find_objects()
            self._objects.update(self._places)
        entries = {a.tree: a.files + a.directories + a.symlinks for a in self._artifacts}
        run_parallel(
            self._compare,
            self._names,
            self._compared.add,
            weight=lambda tree: entries.get(tree, _MERGED_LAYER_ENTRIES) + 5,
            min_weight=1000,
        )
        yield from sorted(self._compared.findings, key=lambda found: found.path)
        yield from self._records()
        if self._whole:
            yield from self._names_and_links()
            yield from self._strays()
        if not quick:
            yield from self._damaged(progress)

    def _compare(self, trees: Iterable[Digest], emit: Callable[[_Compared], None]) -> None:
        """Compare layers with their manifests; emit one result."""
        check = self._storage.layers.check(self._objects)
        done = _Compared(check.census)
        for tree in trees:
            done.findings.extend(self._layer(tree, check, done))
        emit(done)

    def _layer(self, tree: Digest, check: LayerCheck, done: _Compared) -> Iterator[Finding]:
        try:
            manifest = self._storage.layers.manifest(tree)
        except FileNotFoundError:
            yield self._of(FaultKind.MANIFEST, manifest_path(tree), "is missing", tree)
            return
        except BadManifest as error:
            yield self._of(FaultKind.MANIFEST, manifest_path(tree), f"is damaged: {error}", tree)
            return
        done.counts[tree] = _counts(manifest)
        base = layer_path(tree)
        try:
            with open_directory(base, self._storage.fd) as fd:
                for finding in check.compare(fd, manifest, base + b"/"):
                    yield self._of(finding.kind, finding.path, finding.what, tree)
            done.complete.add(tree.encode())
        except FileNotFoundError:
            yield self._of(FaultKind.LAYER, base, "is missing", tree)
        except NotADirectoryError:
            yield self._of(FaultKind.LAYER, base, "is not a directory", tree)
        except PermissionError:
            what = "has a directory that this user may not read"
            yield self._of(FaultKind.ENTRY, base, what, tree)

    def _records(self) -> Iterator[Finding]:
        """Compare records with their manifests, and with their links."""
        counts = self._compared.counts
        for artifact in self._artifacts:
            path, names = artifact_path(artifact.signature), (str(artifact.signature),)
            actual = counts.get(artifact.tree)
            recorded = (artifact.files, artifact.directories, artifact.symlinks, artifact.size)
            if actual is not None and recorded != actual:
                yield Finding(FaultKind.RECORD, path, "has other counts than its record", names)
            fault = self._link_fault(artifact)
            if fault is not None:
                with self._storage.index.read() as reader:  # it may have been replaced meanwhile
                    current = reader.get(artifact.signature) == artifact
                    fault = self._link_fault(artifact) if current else None
            if fault is not None:
                yield Finding(FaultKind.LINK, path, fault, names)

    def _link_fault(self, artifact: Artifact) -> str | None:
        try:
            target = os.readlink(artifact_path(artifact.signature), dir_fd=self._storage.fd)
        except FileNotFoundError:
            return "is missing"
        except OSError:
            return "is not a symbolic link"
        return None if target == b"../../" + layer_path(artifact.tree) else "leads to another layer"

    def _names_and_links(self) -> Iterator[Finding]:
        """Compare the names and link counts of objects with the layers."""
        self._count_other_links()
        census, objects = self._compared.census, self._objects
        odd = objects.keys() - census.sizes.keys()
        odd.update(inode for inode, _ in census.unnamed)
        counts = census.link_counts
        odd.update(inode for inode, count in counts.items() if count > census.links[inode] + 1)
        odd.update(
            inode for inode, path in self._places if objects[inode] != path
        )  # another name of the inode
        found = []
        for path, inode in sorted((path, inode) for inode, path in self._places if inode in odd):
            with contextlib.suppress(FileNotFoundError):  # it has just been deleted
                fault = self._object_fault(path, inode)
                if fault is not None:
                    found.append((*fault, b"objects/" + path, content_of_object(path) or b""))
        for name in sorted({content.name for content in census.unnamed.values()}):
            if not self._is(stat.S_ISREG, content_path(name)):
                what = "is missing, but layers have it"
                found.append((FaultKind.OBJECT, what, content_path(name), name))
        uses = self._uses({name for *_, name in found if name})
        for kind, what, path, name in found:
            yield self._of(kind, path, what, *uses.get(name, ()))

    def _object_fault(self, path: bytes, inode: int) -> tuple[FaultKind, str] | None:
        """Return the fault of an entry below `objects/` that looks odd, or None."""
        if content_of_object(path) is None:
            return FaultKind.STRAY, "is not the name of an object"
        found, census = (
            self._stat(b"objects/" + path),
            self._compared.census,
        )  # stat after counting the links
        if not stat.S_ISREG(found.st_mode):
            self._irregular.add(inode)
            return FaultKind.FOREIGN, "is not a regular file"
        extra = found.st_nlink - 1 - (census.links[inode] or inode in census.sizes)
        if extra > 0 and self._all_counted and found.st_ctime_ns < self._began_ns:
            return FaultKind.LINKS, f"has {extra} more links than the store made"
        return None

    def _damaged(self, progress: Progress) -> Iterator[Finding]:
        """Read each content once. A finding names a path in a layer rather than a digest."""
        sizes, contents = self._compared.census.sizes, [*self._compared.census.unnamed.values()]
        for inode, path in self._places:
            name = content_of_object(path)
            if name is not None and inode not in self._irregular:
                contents.append(ContentFile(name, b"objects/" + path, sizes.get(inode, 0)))
        damaged = damaged_contents(self._storage.fd, contents, progress)
        uses = self._uses({content.name for content, _ in damaged})
        for content, what in damaged:
            users = uses[content.name]
            same = (path for path in users.values() if self._is_same(path, content.path))
            yield self._of(FaultKind.CONTENT, next(same, content.path), what, *users)

    def _count_other_links(self) -> None:
        """Count the links of linked sysroots, scratch directories and incomplete layers.

        A link may be counted twice, but is never missed: the lock keeps layers in place, and
        staging directories, which are renamed to targets, are read before and after the targets.
        """
        store = self._storage.path
        layers = os.path.join(store, b"layers")
        with self._storage.index.locked(exclusive=False):
            for name in (b"tmp", b"quarantine"):
                self._count_links(os.path.join(store, name))
            for name in set(os.listdir(layers)) - self._compared.complete:
                self._count_links(os.path.join(layers, name))
        with contextlib.suppress(StoreDamaged):  # reported elsewhere
            for record in mount_records.iter_records(store):
                if record.strategy == "hardlink":
                    for place in (record.staging, record.target, record.staging):
                        self._count_links(os.fsencode(place or ""))

    def _count_links(self, place: bytes) -> None:
        try:
            with open_directory(place) as fd:
                for node in walk(fd, vanishing=True):
                    if stat.S_ISREG(node.stat.st_mode):
                        self._compared.census.links[node.stat.st_ino] += 1
        except (FileNotFoundError, NotADirectoryError):
            pass
        except PermissionError:
            self._all_counted = False

    def _strays(self) -> Iterator[Finding]:
        """Yield entries that do not belong to the store, and links without a record."""
        known = {os.fsencode(name) for name in (*DIRECTORIES, *FILES)}
        for name in sorted(map(os.fsencode, os.listdir(self._storage.fd))):
            if name not in known:
                yield Finding(FaultKind.STRAY, name, "does not belong to a store")
        yield from self._foreign()
        for directory in (b"layers", b"manifests"):
            with open_directory(directory, self._storage.fd) as fd:
                for text in sorted(os.listdir(fd)):
                    if not is_digest(text):
                        path = directory + b"/" + os.fsencode(text)
                        yield Finding(FaultKind.STRAY, path, "is not the name of a tree")
        recorded = {str(artifact.signature) for artifact in self._artifacts} | self._unread
        linked = (
            name for _, names in artifact_links.names_by_recipe(self._storage.fd) for name in names
        )
        stray = [name for name in linked if name not in recorded]
        for signature in artifact_links.parse_names(stray):
            path = artifact_path(signature)
            with self._storage.index.read() as reader:  # it may have been put meanwhile
                unknown = reader.get(signature) is None
            if unknown and self._is(stat.S_ISLNK, path):
                yield Finding(FaultKind.LINK, path, "has no record", (str(signature),))

    def _foreign(self) -> Iterator[Finding]:
        """Yield entries of the empty directories, and recipes that are not directories."""
        for directory in EMPTY_LAYERS:
            with open_directory(directory, self._storage.fd) as fd:
                for name in sorted(map(os.fsencode, os.listdir(fd))):
                    fault = "is in a directory that must be empty"
                    yield Finding(FaultKind.FOREIGN, directory + b"/" + name, fault)
        with open_directory(b"artifacts", self._storage.fd) as fd, os.scandir(fd) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.is_dir(follow_symlinks=False):
                    path = b"artifacts/" + os.fsencode(entry.name)
                    yield Finding(FaultKind.FOREIGN, path, "is not a directory")

    def _of(self, kind: FaultKind, path: bytes, what: str, *trees: Digest) -> Finding:
        names = sorted(name for tree in trees for name in self._names[tree])
        return Finding(kind, path, what, tuple(names), trees)

    def _uses(self, names: Set[bytes]) -> dict[bytes, dict[Digest, bytes]]:
        """Return the trees that have the named contents, with a path in each."""
        uses: dict[bytes, dict[Digest, bytes]] = {name: {} for name in names}
        for tree in self._names if names else ():
            with contextlib.suppress(OSError, StoreDamaged):
                for path, node in self._storage.layers.manifest(tree).nodes.items():
                    name = content_name(node)
                    if name in names:
                        uses[name].setdefault(tree, layer_path(tree) + b"/" + path)
        return uses

    def _is_same(self, path: bytes, other: bytes) -> bool:
        try:
            return os.path.samestat(self._stat(path), self._stat(other))
        except OSError:
            return False

    def _is(self, kind: Callable[[int], bool], path: bytes) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return kind(self._stat(path).st_mode)
        return False

    def _stat(self, path: bytes) -> os.stat_result:
        with shortened_path(path, self._storage.fd) as (name, directory):
            return os.stat(name, dir_fd=directory, follow_symlinks=False)

    def _find_objects(self) -> Iterator[tuple[int, bytes]]:
        """Yield the inode number and the path below `objects/` of every entry there."""
        with open_directory(b"objects", self._storage.fd) as root, os.scandir(root) as fans:
            for fan in fans:
                prefix = os.fsencode(fan.name)
                try:
                    with open_directory(prefix, root) as fd, os.scandir(fd) as entries:
                        for entry in entries:
                            yield entry.inode(), prefix + b"/" + os.fsencode(entry.name)
                except NotADirectoryError:
                    yield fan.inode(), prefix
