"""Plans: what is to be made where, decided before anything is done."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cas.disk import mount_records
from cas.disk.layout import EMPTY, layer_path, manifest_path
from cas.errors import CasError, ExitCode, InputRefused, StoreDamaged
from cas.model.manifest import Digest, Manifest, is_digest
from cas.model.strict_json import parse
from cas.model.union import union
from cas.system.files import read_file
from cas.system.text import quoted

if TYPE_CHECKING:
    from cas.compose.composition import Composition

VERSION = 1
TreeContent = Mapping[bytes, tuple[bytes, int]]
UPPER = b"upper"
"""Where the changes are in the directory of a plan's `upper`."""


class Strategy(enum.Enum):
    """How a composition becomes a directory.

    AUTO is the first of OVERLAY, HARDLINK and COPY that works; LINKED the first of the last two.
    """

    AUTO = "auto"
    OVERLAY = "overlay"
    HARDLINK = "hardlink"
    COPY = "copy"
    LINKED = "linked"


class NoStrategy(CasError):
    """Nothing that was tried worked; `reasons` says why, one for each strategy."""

    exit_code = ExitCode.NO_STRATEGY

    def __init__(self, target: bytes, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(
            f"cannot make {quoted(target)}: {'; '.join(reasons)}",
            hint="`cas doctor` says what works on this machine",
        )


class StrategyRefused(Exception):
    """A strategy cannot be used here; nothing has been done. The text says why."""


class PlannedArtifact(NamedTuple):
    """An artifact of a plan: its signature, with a priority if it has one (`ID@N`), and tree."""

    id: str
    tree: Digest


class Plan(NamedTuple):
    """`layers` of the store at `store`, lowest first, are to be seen as one tree at `target`.

    They are the trees of `artifacts`, which are lowest first too; of many, the lowest are one
    merged layer. A `writable` tree takes changes, which go with it, or stay in the directory
    `upper`; one that is not shows the changes that are in `upper`, and any number may, while
    nobody makes new ones. `reasons` says why no better `strategy` was decided on. The paths are
    absolute. `lease` is the name of the lease under which all this is in use, if it has one. The
    artifacts have `entries` files, directories and links in all, as far as that is known.
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
        """Plan a composition, read-only, by the first strategy that works."""
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
        """The digests of all trees that must stay in the store."""
        return {*self.layers, *(artifact.tree for artifact in self.artifacts)}

    @property
    def candidates(self) -> tuple[Strategy, ...]:
        """The strategies to try in turn. What can be written to is never linked to the store."""
        wanted = {
            Strategy.AUTO: (Strategy.OVERLAY, Strategy.HARDLINK, Strategy.COPY),
            Strategy.LINKED: (Strategy.HARDLINK, Strategy.COPY),
        }.get(self.strategy, (self.strategy,))
        if self.writable and len(wanted) > 1:
            return tuple(strategy for strategy in wanted if strategy is not Strategy.HARDLINK)
        return wanted

    def overlay_layers(self) -> list[bytes]:
        """Return the absolute paths of the lower directories, top one first as overlayfs takes it.

        They are at least two: overlayfs refuses one without an upper directory (EINVAL).
        """
        beginning = os.path.join(self.store, layer_path(Digest("")))
        layers = [beginning + tree.encode() for tree in reversed(self.layers)]
        if self.upper is not None and not self.writable:
            layers.insert(0, os.path.join(self.upper, UPPER))
        empty = EMPTY[: max(0, 2 - len(layers))]
        return [*layers, *(os.path.join(self.store, layer) for layer in empty)]

    def content(self) -> dict[bytes, tuple[bytes, int]]:
        """Return what will be at the target, as `cas.model.union.union` does.

        Raises StoreDamaged, OSError.
        """
        return union(read_manifest(self.store, tree) for tree in self.layers)

    def dump(self) -> bytes:
        """Return the plan as JSON on one line, which `load` reads."""
        return json.dumps(self.encode()).encode()

    def encode(self) -> dict[str, Any]:
        """Return the plan as what JSON can hold, and `decode` takes."""
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
        """Read what `encode` gave, which may come from anybody. Raises InputRefused.

        Whatever it says, its layers are layers of its store.
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
            raise InputRefused(
                f"this is no plan: {error}", hint="`cas plan --json` writes one"
            ) from error

    @classmethod
    def load(cls, text: str | bytes) -> Plan:
        """Read the JSON that `cas plan --json` writes. Raises InputRefused."""
        try:
            document = parse(text)
        except ValueError as error:
            raise InputRefused(
                f"this is no plan: {error}", hint="`cas plan --json` writes one"
            ) from error
        return cls.decode(document)

    def by(self, strategy: Strategy, reasons: Sequence[str] = ()) -> Plan:
        """Return the plan with a strategy decided on."""
        return self._replace(strategy=strategy, reasons=tuple(reasons))


def read_manifest(store: bytes, tree: Digest) -> Manifest:
    """Read a manifest from the store at an absolute path.

    It is well-formed, and has the right digest where blake3 is installed to find out. Raises
    StoreDamaged, OSError.
    """
    path = os.path.join(store, manifest_path(tree))
    try:
        data = read_file(path)
    except FileNotFoundError as error:
        raise StoreDamaged(f"the manifest {quoted(path)} is missing") from error
    except ValueError as error:
        raise StoreDamaged(f"the manifest {quoted(path)} is damaged: {error}") from error
    try:
        from cas.content.digest import verified_manifest
    except ModuleNotFoundError:  # a bare interpreter carries out a plan
        return Manifest.decode(data)
    return verified_manifest(data, tree)


def _decode_path(path: str) -> bytes:
    encoded = os.fsencode(path)
    if not os.path.isabs(encoded) or os.path.normpath(encoded) != encoded or b"\0" in encoded:
        raise ValueError(f"{path!r} is no absolute path in its shortest form")
    return encoded


def _decode_layer(path: str, store: bytes) -> Digest:
    tree = _decode_digest(os.path.basename(path))
    if os.fsencode(path) != os.path.join(store, layer_path(tree)):
        raise ValueError(f"{path!r} is no layer of the store")
    return tree


def _decode_digest(text: str) -> Digest:
    if not is_digest(text):
        raise ValueError(f"{text!r} is no digest")
    return Digest(text)
