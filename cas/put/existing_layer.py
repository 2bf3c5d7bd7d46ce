"""The layer that the tree of a put may have already, and whether it can be relied on."""

from __future__ import annotations

import contextlib
import os

from cas.content.objects import ConcurrentChange
from cas.disk.boot import boot_id
from cas.disk.layout import layer_path
from cas.disk.scratch import scratch
from cas.errors import StoreDamaged
from cas.index.database import Reader
from cas.index.parts import StoreParts
from cas.model.manifest import Digest
from cas.system.debug_log import debug
from cas.system.text import quoted


def has_good_layer(storage: StoreParts, tree: Digest, *, doubt: bool) -> bool:
    """Return whether the layer of a tree exists and can be relied on.

    A layer that was recorded in this boot, or is known to be on the disk, is only read if there is
    `doubt`. A layer of an earlier boot is always read, and withdrawn if it is damaged. Raises
    StoreDamaged (damaged, and maybe in use), ConcurrentChange, OSError.
    """
    with storage.index.read() as reader:
        boots = _boots_of(reader, tree)
    if not storage.layers.exists(tree):
        return False
    if boots & {None, boot_id()}:
        if doubt:
            _refuse_damaged_layer(storage, tree)
        return True
    with contextlib.suppress(FileNotFoundError, StoreDamaged):
        if next(storage.layers.find_faults(tree), None) is None:
            return True
    debug("put: withdrawing the damaged layer %s of an earlier boot", tree)
    with scratch(storage.fd, "damaged") as aside, storage.index.locked(exclusive=True):
        with storage.index.transaction() as reader:
            if _boots_of(reader, tree) != boots:  # another put has rebuilt the layer
                raise ConcurrentChange
        storage.layers.withdraw(tree, aside)
    return False


def _refuse_damaged_layer(storage: StoreParts, tree: Digest) -> None:
    """Read a layer, and raise StoreDamaged if it is damaged, ConcurrentChange if it is gone."""
    try:
        damaged = any(storage.layers.find_faults(tree))
    except FileNotFoundError as error:
        raise ConcurrentChange from error
    if damaged:
        layer = quoted(os.path.join(storage.path, layer_path(tree)))
        hint = "list the damage with `cas verify`, and repair it with `cas verify --repair`"
        raise StoreDamaged(f"the layer {layer} is damaged", hint=hint)


def _boots_of(reader: Reader, tree: Digest) -> set[str | None]:
    """Return the boots in which the artifacts of a tree were put; None if on the disk."""
    return {artifact.boot_id for artifact in reader.of_tree(tree)}
