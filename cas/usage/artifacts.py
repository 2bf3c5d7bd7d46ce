"""What artifacts take on the disk, and what of it is theirs alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence, Set
from typing import NamedTuple

from cas.content.objects import ObjectKey
from cas.disk.layout import artifact_path, layer_path
from cas.errors import StoreDamaged
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.system.text import quoted
from cas.usage.space import FreedBytes, layer_overhead


class Usage(NamedTuple):
    """What an artifact takes, in bytes of disk: `total`, of which `own` come back if it goes."""

    artifact: Artifact
    total: int
    own: int


class DiskUsage(NamedTuple):
    """What some artifacts take, each and all together.

    `total` counts once what several of them have; `frees` is what comes back if all of them go.
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
    """Work out what the `chosen` ones of all `artifacts` of a store take.

    To what one takes belongs what merged layers with it take besides contents, but for those in
    `used` (trees): they go with it. Raises OSError, StoreDamaged.
    """
    merged = [layer for layer in storage.compositions.iter_merged() if layer.tree not in used]
    release = FreedBytes(storage, artifacts, merged)
    seen: dict[bytes, int] = {}
    each: list[Usage] = []
    for artifact in chosen:
        sizes = sizes_of(storage, artifact)
        for layer in merged:
            if artifact.tree in layer.parts:
                size = storage.compositions.entry_bytes(layer) + layer_overhead(storage, layer.tree)
                sizes[b"merged " + layer.tree.encode()] = size
        seen |= sizes
        each.append(Usage(artifact, sum(sizes.values()), release.alone(artifact)))
    return DiskUsage(tuple(each), sum(seen.values()), sum(map(release.of, chosen)))


def sizes_of(storage: StoreParts, artifact: Artifact) -> dict[bytes, int]:
    """Return the bytes of disk of all that an artifact has, by paths: objects, layer and link.

    Raises OSError, StoreDamaged (a part is missing, or the artifact has just gone).
    """
    layer, link = layer_path(artifact.tree), artifact_path(artifact.signature)
    try:
        owner = os.stat(layer, dir_fd=storage.fd).st_uid
        manifest = storage.layers.manifest(artifact.tree)
    except FileNotFoundError as error:
        where = quoted(error.filename or layer)
        hint = "`cas verify` tells what else, and `cas verify --repair` takes it out of service"
        raise StoreDamaged(f"{where} of {artifact.signature} is missing", hint=hint) from error
    sizes = {layer: artifact.overhead}
    for path in (link, os.path.dirname(link)):
        with contextlib.suppress(FileNotFoundError):
            sizes[path] = os.stat(path, dir_fd=storage.fd, follow_symlinks=False).st_blocks * 512
    for entry in manifest:
        key = ObjectKey.of(entry)
        found = None if key is None else storage.objects.linked_by(key, owner)
        if found is not None:
            sizes[found[0]] = found[1].st_blocks * 512
    return sizes
