"""The origin of a file: the artifact that provides it, and those that it hides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple, TypeGuard

from cas.disk import mount_records
from cas.disk.leases import read_lease
from cas.errors import CasError
from cas.model.manifest import DIRECTORY, Digest, Entry, Manifest
from cas.system.mountinfo import MountLine, mount_of
from cas.system.paths import parents
from cas.system.text import quoted


class PathNotFound(CasError):
    """No artifact of a composition has a path."""


class Provider(NamedTuple):
    """The artifact `id` (with `@N` if it has a priority) provides `node` at `path`."""

    id: str
    path: bytes
    node: bytes

    @property
    def entry(self) -> Entry:
        """The entry that the artifact has there."""
        return Entry.of(self.path, self.node)


class Origin(NamedTuple):
    """The visible provider of `path`, and the hidden ones, from the highest to the lowest.

    `winner` is None if a file or link hides a directory above `path`.
    """

    path: bytes
    winner: Provider | None
    hidden: tuple[Provider, ...]


def _is_link(node: bytes | None) -> TypeGuard[bytes]:
    return node is not None and node.startswith(b"l")


class MountedComposition(NamedTuple):
    """The artifacts of a mounted sysroot (ID and tree, lowest first), and a path in it."""

    artifacts: tuple[tuple[str, Digest], ...]
    path: bytes


def find_origin(path: bytes, trees: Iterable[tuple[str, Manifest]]) -> Origin:
    """Return the origin of `path` in a composition of trees with their IDs, lowest first.

    Directories merge, so the highest one counts as their provider. Raises PathNotFound.
    """
    above = list(parents(path))
    winner: Provider | None = None
    hidden: list[Provider] = []
    links: list[tuple[bytes, bytes]] = []
    for id_, manifest in trees:
        node = manifest.nodes.get(path)
        covers = any(manifest.nodes.get(parent, DIRECTORY) != DIRECTORY for parent in above)
        if (node is not None or covers) and winner is not None:
            hidden.insert(0, winner)
            winner = None
        if node is not None:
            winner = Provider(id_, path, node)
        links += [
            (parent, node) for parent in above if _is_link(node := manifest.nodes.get(parent))
        ]
    if winner is None and not hidden:
        hint = "list the files of an artifact with `cas files ID`"
        for parent, node in links:
            hint = f"{quoted(parent)} is a symbolic link to {quoted(node[2:])}: use that path"
        raise PathNotFound(f"no artifact of the composition has {quoted(path)}", hint=hint)
    return Origin(path, winner, tuple(hidden))


def find_mounted_composition(store: bytes, file: bytes) -> MountedComposition:
    """Return the composition of the mounted sysroot that contains the absolute path `file`.

    The sysroot is one of `cas mount`, or of the `cas run` that this process runs in. Raises
    CasError, StoreDamaged, OSError.
    """
    for record in mount_records.iter_records(store):
        target = os.fsencode(record.target)
        if file == target and mount_records.may_be_mounted(record):
            raise CasError(
                f"{quoted(file)} is the sysroot itself",
                hint="name a path in it, or run `cas mounts`",
            )
        if file.startswith(target + b"/") and mount_records.may_be_mounted(record):
            plan, *_ = mount_records.plan_documents(store, record)
            artifacts = [(a["id"], a["tree"]) for a in plan["artifacts"]]
            return MountedComposition(tuple(artifacts), file[len(target) + 1 :])
    mount = mount_of(file)
    name = None if mount is None else _lease_name(mount)
    lease = None if name is None else read_lease(store, name)
    if mount is not None and lease is not None:
        inside = os.path.relpath(file, mount.point)
        return MountedComposition(tuple((i, Digest(tree)) for i, tree in lease.artifacts), inside)
    raise CasError(
        f"{quoted(file)} is not in a sysroot that is mounted from {quoted(store)}",
        hint="name the IDs of a composition, and a path in it",
    )


def _lease_name(mount: MountLine) -> str | None:
    """Return the name of the lease that a mount of `cas run` carries, or None.

    An overlay has it in its source, a linked tree in the name of the bound directory.
    """
    name = re.fullmatch(r"cas-([0-9]+-[0-9a-f]{16})", mount.source) or re.search(
        r"/tmp/run-([0-9]+-[0-9a-f]{16})-", os.fsdecode(mount.root)
    )
    return None if name is None else name[1]
