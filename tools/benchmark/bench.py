"""The directory, the trees and the store of a benchmark."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mounter
from benchmark.measuring import command, remove, say
from cas.store import Store

CAS = Path(sys.executable).with_name("cas")


@dataclass(frozen=True)
class Bench:
    """An empty directory on the file system to measure, with copies of the packages' trees."""

    place: Path
    trees: Sequence[Path]
    rounds: int
    quick: bool

    @functools.cached_property
    def file_system(self) -> str:
        """The type of the file system, as the kernel names it."""
        path = os.path.realpath(self.place)
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return max((m for m in mounts if _is_below(path, m[0])), key=lambda m: len(m[0]))[1]

    @functools.cached_property
    def store(self) -> Store:
        """A store of all trees. It is closed when the process ends."""
        say("  (filling a store)")
        store = Store(self.place / "store", create=True)
        for signature, tree in self.named_trees():
            store.put(signature, tree)
        return store

    def named_trees(self) -> Iterator[tuple[str, Path]]:
        """Yield each tree with its task signature."""
        for number, tree in enumerate(self.trees):
            yield signature_of(tree, number), tree

    @functools.cached_property
    def names(self) -> list[str]:
        """The task signatures in the order of composition."""
        return [signature for signature, _ in self.named_trees()]

    def forget_compositions(self) -> None:
        """Remove everything that the store has cached about compositions."""
        for name in os.listdir(os.path.join(self.store.path, b"known")):
            os.unlink(os.path.join(self.store.path, b"known", name))

    def compose(self) -> None:
        """Let the store cache the composition of all artifacts."""
        self.store.compose(self.names).close()

    def cas(self, *argv: str | Path, store: Path | None = None) -> None:
        """Run a `cas` command, on the store of all trees or another. Raises Failed."""
        command(CAS, "--store", store or os.fsdecode(self.store.path), *argv)

    def mount(self, target: Path, strategy: mounter.Strategy = mounter.Strategy.OVERLAY) -> None:
        """Mount all artifacts at `target`, by the Python interface."""
        with self.store.compose(self.names) as composition:
            mounter.mount(composition, target, strategy)

    def warm_up(self, target: Path) -> None:
        """Mount and unmount once by each strategy, so that no contender has to load modules."""
        for strategy in (mounter.Strategy.OVERLAY, mounter.Strategy.HARDLINK):
            self.mount(target, strategy)
            self.umount(target)

    def umount(self, target: Path) -> None:
        """Unmount `target`, by the Python interface."""
        mounter.umount(self.store.path, target)


def signature_of(tree: Path, number: int) -> str:
    """Return the task signature of a package's tree; `number` is its hash."""
    return f"{tree.name}:bookworm:do_populate_sysroot:{number:08x}"


@contextmanager
def bench_in(
    directory: Path, trees: Sequence[Path], rounds: int, *, quick: bool
) -> Iterator[Bench]:
    """Copy the trees to a new directory in `directory`, which is deleted at the end."""
    place = directory / f"cas-bench-{os.getpid()}"
    try:
        (place / "trees").mkdir(parents=True)
        say(f"Copying {len(trees)} trees to {place}")
        command("cp", "-a", *trees, place / "trees")
        yield Bench(place, [place / "trees" / tree.name for tree in trees], rounds, quick)
    finally:
        remove(place)


def _is_below(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory
