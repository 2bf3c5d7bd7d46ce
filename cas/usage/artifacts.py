"""The disk usage of artifacts: in total, and not shared with others."""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from typing import NamedTuple

from cas.content.objects import ObjectKey
from cas.disk.layout import layer_path
from cas.errors import StoreDamaged
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.system.text import quoted
from cas.usage.space import FreedBytes, stored_layer_bytes


class Usage(NamedTuple):
    """The disk space (bytes) of an artifact: `total`, and `own`, which its removal frees."""

    artifact: Artifact
    total: int
    own: int


class DiskUsage(NamedTuple):
    """The disk space (bytes) of several artifacts.

    `total` counts shared files once; `frees` is the space that removing all of them frees.
    """

    each: tuple[Usage, ...]
    total: int
    frees: int


def disk_usage(
    storage: StoreParts,
    used: Set[str],
    artifacts: Sequence[Artifact],
    chosen: Sequence[Artifact],
) -> DiskUsage:
    """Return the disk usage of the `chosen` among all `artifacts` of a store.

    An artifact's total includes the unused merged layers that contain it, since they are removed
    with it; `used` are the trees in use. Raises OSError, StoreDamaged.
    """
    merged = [layer for layer in storage.compositions.iter_merged() if layer.tree not in used]
    freed_bytes = FreedBytes(storage, artifacts, merged)
    seen: dict[bytes, int] = {}
    each: list[Usage] = []
    for artifact in chosen:
        sizes = sizes_of(storage, artifact)
        for layer in merged:
            if artifact.tree in layer.parts:
                sizes[layer_path(layer.tree)] = stored_layer_bytes(storage, layer.tree)
        seen |= sizes
        each.append(Usage(artifact, sum(sizes.values()), freed_bytes.only(artifact)))
    return DiskUsage(tuple(each), sum(seen.values()), sum(map(freed_bytes.remove, chosen)))


def sizes_of(storage: StoreParts, artifact: Artifact) -> dict[bytes, int]:
    """Return the disk space (bytes) of each part of an artifact by path: its objects and its layer.

    Raises OSError, StoreDamaged (a part is missing, maybe since the artifact was just removed).
    """
    layer = layer_path(artifact.tree)
    try:
        owner = os.stat(layer, dir_fd=storage.fd).st_uid
        manifest = storage.layers.manifest(artifact.tree)
    except FileNotFoundError as error:
        where = quoted(error.filename or layer)
        hint = "list all damage with `cas verify`, and repair it with `cas verify --repair`"
        raise StoreDamaged(f"{where} of {artifact.signature} is missing", hint=hint) from error
    sizes = {layer: artifact.layer_bytes}
    for entry in manifest:
        key = ObjectKey.of(entry)
        found = None if key is None else storage.objects.linked_by(key, owner)
        if found is not None:
            sizes[found[0]] = found[1].st_blocks * 512
    return sizes
