"""Plans: what is to be made where, decided before anything is done."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import dataclass

from cas.compose import union
from cas.errors import CasError, ExitCode, StoreDamaged
from cas.layout import EMPTY, layer_path, manifest_path
from cas.manifest import Digest, Manifest
from cas.quoting import quoted


class Strategy(enum.Enum):
    """How a composition becomes a directory.

    AUTO is the first of OVERLAY, HARDLINK and COPY that works; LINKED the first of the last two.
    """

    AUTO = "auto"
    OVERLAY = "overlay"
    HARDLINK = "hardlink"
    COPY = "copy"
    LINKED = "linked"

    @property
    def candidates(self) -> tuple[Strategy, ...]:
        """The strategies to try in turn."""
        if self is Strategy.AUTO:
            return (Strategy.OVERLAY, Strategy.HARDLINK, Strategy.COPY)
        if self is Strategy.LINKED:
            return (Strategy.HARDLINK, Strategy.COPY)
        return (self,)


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


@dataclass(frozen=True, slots=True)
class Plan:
    """`trees` of the store at `store`, lowest first, are to be seen as one tree at `target`.

    The paths are absolute.
    """

    store: bytes
    trees: tuple[Digest, ...]
    target: bytes

    def overlay_layers(self) -> list[bytes]:
        """Return the absolute paths of the lower directories, top one first as overlayfs takes it.

        They are at least two: overlayfs refuses one without an upper directory (EINVAL).
        """
        layers = [layer_path(tree) for tree in reversed(self.trees)]
        layers += EMPTY[: max(0, 2 - len(layers))]
        return [os.path.join(self.store, layer) for layer in layers]

    def layer(self, number: int) -> bytes:
        """Return the absolute path of a layer, counted from the lowest."""
        return os.path.join(self.store, layer_path(self.trees[number]))

    def content(self) -> dict[bytes, tuple[bytes, int]]:
        """Return what will be at the target, as `cas.compose.union` does.

        The manifests are checked to be well-formed, but not hashed. Raises StoreDamaged, OSError.
        """
        return union(self._manifest(tree) for tree in self.trees)

    def _manifest(self, tree: Digest) -> Manifest:
        path = os.path.join(self.store, manifest_path(tree))
        try:
            with open(path, "rb") as file:
                return Manifest.decode(file.read())
        except FileNotFoundError as error:
            raise StoreDamaged(f"the manifest {quoted(path)} is missing") from error
