"""Plans: descriptions of sysroots to be mounted, which any process can carry out."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cas.disk import mount_records
from cas.disk.layout import EMPTY_LAYERS, layer_path, manifest_path
from cas.errors import CasError, ExitCode, InputRefused, StoreDamaged
from cas.model.manifest import Digest, Manifest, is_digest
from cas.model.strict_json import parse
from cas.model.union import union
from cas.system.files import read_file
from cas.system.text import quoted

if TYPE_CHECKING:
    from cas.compose.composition import Composition

VERSION = 1
"""The version of a plan's JSON."""
TreeContent = Mapping[bytes, tuple[bytes, int]]
"""Paths with their node, and the number of the layer or artifact that provides them."""
UPPER = b"upper"
"""The directory of the changes, in a plan's upper directory."""
_PLAN_HINT = "create one with `cas plan --json`"


class Strategy(enum.Enum):
    """The way to make a sysroot.

    AUTO is the first of OVERLAY, HARDLINK and COPY that works; LINKED is the first of HARDLINK and
    COPY that works.
    """

    AUTO = "auto"
    OVERLAY = "overlay"
    HARDLINK = "hardlink"
    COPY = "copy"
    LINKED = "linked"


class NoStrategy(CasError):
    """All strategies were refused; `reasons` has one sentence for each."""

    exit_code = ExitCode.NO_STRATEGY

    def __init__(self, target: bytes, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(
            f"cannot make {quoted(target)}: {'; '.join(reasons)}",
            hint="`cas doctor` shows what works on this machine",
        )


class StrategyRefused(Exception):
    """A strategy cannot be used here; nothing was changed. The text says why."""


class PlannedArtifact(NamedTuple):
    """An artifact of a plan: its ID, with a priority if it has one (`ID@N`), and its tree."""

    id: str
    tree: Digest


class Plan(NamedTuple):
    """A plan to show `layers` of the store at `store`, lowest first, as one tree at `target`.

    The layers are the trees of `artifacts`, lowest first; if there are too many, one merged layer
    stands for the lowest. A `writable` sysroot accepts changes: they are kept in the directory
    `upper`, or discarded if that is None. A read-only sysroot with `upper` shows the changes kept
    there; any number may do so while none is writable.

    `strategy` may be decided already; `reasons` then says why better ones were refused. `lease` is
    the name of the lease that keeps the artifacts, if any. `entries` is the number of files,
    directories and links in the artifacts, 0 if unknown. Paths are absolute.
    """

    store: bytes
    layers: tuple[Digest, ...]
    target: bytes
    artifacts: tuple[PlannedArtifact, ...] = ()
    strategy: Strategy = Strategy.AUTO
    reasons: tuple[str, ...] = ()
    writable: bool = False
    upper: bytes | None = None
    lease: str | None = None
    entries: int = 0

    @classmethod
    def of(cls, composition: Composition, target: bytes) -> Plan:
        """Return the plan of a read-only composition, with strategy AUTO."""
        artifacts = tuple(map(PlannedArtifact, composition.ids, composition.trees))
        return cls(
            composition.store,
            composition.layers,
            target,
            artifacts,
            lease=composition.lease.name,
            entries=composition.entries,
        )

    @property
    def used(self) -> set[str]:
        """The digests of all trees that must remain in the store."""
        return {*self.layers, *(artifact.tree for artifact in self.artifacts)}

    @property
    def candidates(self) -> tuple[Strategy, ...]:
        """The strategies to try in turn; a writable sysroot is never linked to the store."""
        strategies = {
            Strategy.AUTO: (Strategy.OVERLAY, Strategy.HARDLINK, Strategy.COPY),
            Strategy.LINKED: (Strategy.HARDLINK, Strategy.COPY),
        }.get(self.strategy, (self.strategy,))
        if self.writable and len(strategies) > 1:
            return tuple(strategy for strategy in strategies if strategy is not Strategy.HARDLINK)
        return strategies

    def overlay_layers(self) -> list[bytes]:
        """Return the absolute paths of the lower directories, top first, the order of overlayfs."""
        prefix = os.path.join(self.store, layer_path(Digest("")))
        layers = [prefix + tree.encode() for tree in reversed(self.layers)]
        if self.upper is not None and not self.writable:
            layers.insert(0, os.path.join(self.upper, UPPER))
        # overlayfs refuses a single layer without an upper directory (EINVAL).
        empty = EMPTY_LAYERS[: max(0, 2 - len(layers))]
        return [*layers, *(os.path.join(self.store, layer) for layer in empty)]

    def content(self) -> dict[bytes, tuple[bytes, int]]:
        """Return the merged tree, as `cas.model.union.union` does, by layer.

        Raises StoreDamaged, OSError.
        """
        return union(read_manifest(self.store, tree) for tree in self.layers)

    def dump(self) -> bytes:
        """Return the plan as one line of JSON; the inverse of `load`."""
        return json.dumps(self.encode()).encode()

    def encode(self) -> dict[str, Any]:
        """Return the plan as a JSON object; the inverse of `decode`."""
        layers = os.fsdecode(os.path.join(self.store, layer_path(Digest(""))))
        return {
            "version": VERSION,
            "store": os.fsdecode(self.store),
            "target": os.fsdecode(self.target),
            "strategy": self.strategy.value,
            "reasons": list(self.reasons),
            "writable": self.writable,
            "upper": None if self.upper is None else os.fsdecode(self.upper),
            "artifacts": [{"id": planned.id, "tree": planned.tree} for planned in self.artifacts],
            "layers": [layers + tree for tree in reversed(self.layers)],
            "entries": self.entries,
        }

    @classmethod
    def decode(cls, document: Any) -> Plan:
        """Return the plan of a JSON object, which need not be trusted. Raises InputRefused.

        All layers are layers of the plan's store.
        """
        try:
            if document["version"] != VERSION:
                raise ValueError(f"its version is {document['version']!r}, not {VERSION}")
            mount_records.check_plan(document)
            store = _decode_path(document["store"])
            upper = document["upper"]
            return cls(
                store=store,
                layers=tuple(_decode_layer(path, store) for path in reversed(document["layers"])),
                target=_decode_path(document["target"]),
                artifacts=tuple(
                    PlannedArtifact(planned["id"], _decode_digest(planned["tree"]))
                    for planned in document["artifacts"]
                ),
                strategy=Strategy(document["strategy"]),
                reasons=tuple(document["reasons"]),
                writable=document["writable"],
                upper=None if upper is None else _decode_path(upper),
                entries=document.get("entries", 0),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputRefused(f"this is not a plan: {error}", hint=_PLAN_HINT) from error

    @classmethod
    def load(cls, text: str | bytes) -> Plan:
        """Return the plan in JSON text from `cas plan --json`. Raises InputRefused."""
        try:
            document = parse(text)
        except ValueError as error:
            raise InputRefused(f"this is not a plan: {error}", hint=_PLAN_HINT) from error
        return cls.decode(document)

    def by(self, strategy: Strategy, reasons: Sequence[str] = ()) -> Plan:
        """Return the plan with a decided strategy, and the reasons against better ones."""
        return self._replace(strategy=strategy, reasons=tuple(reasons))


def read_manifest(store: bytes, tree: Digest) -> Manifest:
    """Read a manifest from the store at an absolute path, and check its form.

    Its digest is checked too, if blake3 is installed. Raises StoreDamaged, OSError.
    """
    path = os.path.join(store, manifest_path(tree))
    try:
        data = read_file(path)
    except FileNotFoundError as error:
        raise StoreDamaged(f"the manifest {quoted(path)} is missing") from error
    except ValueError as error:
        raise StoreDamaged(f"the manifest {quoted(path)} is damaged: {error}") from error
    # blake3 may be missing: a bare interpreter can carry out a plan.
    try:
        from cas.content.digest import verified_manifest
    except ModuleNotFoundError:
        return Manifest.decode(data)
    return verified_manifest(data, tree)


def _decode_path(path: str) -> bytes:
    encoded = os.fsencode(path)
    if not os.path.isabs(encoded) or os.path.normpath(encoded) != encoded or b"\0" in encoded:
        raise ValueError(f"{path!r} is not a normalized absolute path")
    return encoded


def _decode_layer(path: str, store: bytes) -> Digest:
    tree = _decode_digest(os.path.basename(path))
    if os.fsencode(path) != os.path.join(store, layer_path(tree)):
        raise ValueError(f"{path!r} is not a layer of the store")
    return tree


def _decode_digest(text: str) -> Digest:
    if not is_digest(text):
        raise ValueError(f"{text!r} is not a digest")
    return Digest(text)
