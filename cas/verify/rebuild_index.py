"""Rebuilds the index from the links, manifests and layers on the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections import Counter
from typing import NamedTuple

from cas.content.layers import Layers
from cas.content.objects import Objects
from cas.disk.group_sharing import make_subdirectory
from cas.disk.layout import artifact_path, layer_path
from cas.disk.log import EventKind, append_events, new_event
from cas.disk.scratch import scratch, temporary_path
from cas.errors import StoreDamaged
from cas.index import artifact_links
from cas.index.database import Index
from cas.index.format import NoStore, restore_store
from cas.model.artifact import Artifact
from cas.model.manifest import Digest, Kind, is_digest
from cas.model.signature import Signature
from cas.system.directories import open_directory
from cas.system.file_lock import wait_for_lock
from cas.system.oserrors import adding_path
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.text import quoted

_DATA = b"index/data.mdb"
_MISSING_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ELOOP)


class Rebuilt(NamedTuple):
    """The artifacts with restored records; `lost` are the other IDs with reasons, as text."""

    artifacts: tuple[Artifact, ...]
    lost: tuple[str, ...]


def rebuild_index(
    store: str | bytes | os.PathLike[str], progress: Progress = NO_PROGRESS
) -> Rebuilt:
    """Rebuild the index of the store at a path from its links, manifests and layers.

    The old index is moved to `quarantine/`. Processes that have it open must open the store again.
    Contents are not read now, but before the first use of each artifact. `progress` counts
    artifacts. Raises NoStore, StoreDamaged, OSError.
    """
    path = os.path.realpath(os.fsencode(store))
    if not os.path.exists(os.path.join(path, b"format")):
        raise NoStore(path)
    restore_store(path)
    with open_directory(path) as fd, adding_path(fd), scratch(fd, "index") as work:
        lock = os.open(b"lock", os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
        try:
            wait_for_lock(lock, fcntl.LOCK_EX, os.path.join(path, b"lock"))
            rebuilt = _rebuild(path, fd, os.path.join(path, work.path), work.fd, progress)
            counts = f"{len(rebuilt.artifacts)} restored, {len(rebuilt.lost)} lost"
            append_events(fd, [new_event(EventKind.REBUILT, what=counts)])
            return rebuilt
        finally:
            os.close(lock)


def _rebuild(store: bytes, store_fd: int, work: bytes, work_fd: int, progress: Progress) -> Rebuilt:
    layers = Layers(store_fd, Objects(store, store_fd))
    artifacts: list[Artifact] = []
    lost: list[str] = []
    recipes = artifact_links.names_by_recipe(store_fd)
    signatures = [s for _, names in recipes for s in artifact_links.parse_names(names)]
    for number, signature in enumerate(signatures, 1):
        try:
            artifacts.append(artifact_of(layers, signature, store_fd))
        except StoreDamaged as error:
            lost.append(f"{signature}: {error.message}")
        except OSError as error:
            if error.errno not in _MISSING_ERRORS:  # an I/O error, say: the artifact may exist
                raise
            lost.append(f"{signature}: {error.strerror}")
        progress.update(number, len(signatures), 0)
    make_subdirectory(b"index", work_fd)
    os.close(os.open(b"lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=work_fd))
    index = Index(os.path.join(work, b"index"), os.path.join(work, b"lock"), create=True)
    with index.write() as writer:
        for artifact in artifacts:
            writer.put(artifact)
    index.sync()
    index.close()
    aside = b"quarantine/" + os.path.basename(temporary_path("index"))
    with contextlib.suppress(FileNotFoundError):
        os.link(_DATA, aside, src_dir_fd=store_fd, dst_dir_fd=store_fd)
    with contextlib.suppress(FileExistsError):
        make_subdirectory(b"index", store_fd)
    os.rename(_DATA, _DATA, src_dir_fd=work_fd, dst_dir_fd=store_fd)
    return Rebuilt(tuple(artifacts), tuple(lost))


def artifact_of(layers: Layers, signature: Signature, store_fd: int) -> Artifact:
    """Return the artifact of a link, from its layer and manifest.

    It counts as put in an unknown boot, so its contents are read before its first use. The
    properties that the put dropped are unknown. Raises StoreDamaged, OSError.
    """
    tree = _tree_of(signature, store_fd)
    manifest = layers.manifest(tree)
    kinds = Counter(entry.kind for entry in manifest)
    return Artifact(
        signature=signature,
        tree=tree,
        files=kinds[Kind.FILE],
        directories=kinds[Kind.DIRECTORY],
        symlinks=kinds[Kind.SYMLINK],
        size=sum(entry.size for entry in manifest),
        created_ns=os.stat(layer_path(tree), dir_fd=store_fd).st_mtime_ns,
        boot_id="unknown",
    )


def _tree_of(signature: Signature, store_fd: int) -> Digest:
    path = artifact_path(signature)
    target = os.readlink(path, dir_fd=store_fd)
    name = os.path.basename(target).decode(errors="replace")
    if not is_digest(name) or target != b"../../" + layer_path(Digest(name)):
        raise StoreDamaged(f"the link {quoted(path)} does not lead to a layer")
    return Digest(name)
