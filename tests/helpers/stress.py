"""A worker that does everything to a store that others use too; see test_stress.

    python -m tests.helpers.stress SEED OPERATIONS STORE DIRECTORY

It ends with an error if an operation fails for another reason than that a signature was removed,
is in use, or has its other tree, or if a composed sysroot has a wrong byte.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import mounter
from cas.errors import CasError, ExitCode
from cas.gc.policy import Policy
from cas.model.signature import NoSuchSignature
from cas.put.put import SignatureConflict
from cas.store import Store
from tests.helpers.support import CAS, ROOT, Tree, snapshot

RECIPES = 12
VERSIONS = 2
_TRUE_REASONS = (ExitCode.NO_SIGNATURE, ExitCode.IN_USE)


def tree_of(place: Path, number: int, version: int) -> Path:
    """Make a tree of a recipe: files of its own, and some that other recipes have too.

    One file of a recipe's trees differs.
    """
    tree = place / f"{number}.{version}"
    (tree / "usr/share").mkdir(parents=True)
    (tree / f"usr/version{number}").write_text(f"{version}")
    (tree / "usr/common").write_text("common" * 1000)
    (tree / f"usr/own{number}").write_text(f"{number}" * 100)
    (tree / f"usr/share/some{number % 3}").write_text(f"{number % 3}")
    (tree / f"usr/tool{number}").write_text("#!/bin/sh\n")
    (tree / f"usr/tool{number}").chmod(0o755)
    (tree / f"l{number}").symlink_to("usr")
    return tree


def _name(number: int) -> str:
    return f"r{number}:t:12345678"


class Worker:
    """Does operations on the store at `store`, in its own directory `work`."""

    def __init__(self, seed: int, store: Path, trees: Path, work: Path) -> None:
        self.chance = random.Random(seed)
        self.store = store
        self.trees = trees
        self.work = work
        self.expected = [
            [snapshot(trees / f"{number}.{version}") for version in range(VERSIONS)]
            for number in range(RECIPES)
        ]
        Store(store, create=True).close()
        self.operations: tuple[tuple[int, Callable[[], object]], ...] = (
            (30, self.put),
            (6, self.put_by_command),
            (10, self.read_layers),
            (12, self.mount),
            (3, self.mount_by_command),
            (6, self.run),
            (3, self.run_by_command),
            (12, self.remove),
            (2, self.remove_by_command),
            (8, self.collect),
            (2, self.collect_by_command),
            (4, self.pin),
            (1, self.pin_by_command),
            (1, self.verify),
            (1, self.verify_by_command),
        )

    def step(self) -> None:
        """Do one operation."""
        weights = [weight for weight, _ in self.operations]
        (_, operation) = self.chance.choices(self.operations, weights)[0]
        with contextlib.suppress(_TrueReason):
            try:
                operation()
            except CasError as error:
                if error.exit_code not in _TRUE_REASONS:
                    raise
        assert len(os.listdir("/proc/self/fd")) < 40

    def _some(self) -> list[int]:
        return self.chance.sample(range(RECIPES), self.chance.randrange(1, 5))

    def _check(self, seen: Tree, numbers: list[int]) -> None:
        wanted: Tree = {}
        for number in numbers:
            path = b"usr/version%d" % number
            possible = {version[path]: version for version in self.expected[number]}
            assert seen.get(path) in possible, (numbers, path, seen.get(path))
            wanted |= possible[seen[path]]
        assert seen == wanted, (numbers, seen.keys() ^ wanted.keys())

    def _cas(self, *arguments: str, allowed: Sequence[int] = ()) -> str:
        done = subprocess.run(
            [CAS, "--store", self.store, *arguments],
            cwd=self.work,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode in (*_TRUE_REASONS, *allowed) or (
            done.returncode == 125 and "no such ID" in done.stderr
        ):
            raise _TrueReason
        assert done.returncode == 0, (arguments, done)
        return done.stdout

    def _tree(self) -> tuple[str, Path]:
        number = self.chance.randrange(RECIPES)
        return _name(number), self.trees / f"{number}.{self.chance.randrange(VERSIONS)}"

    def put(self) -> None:
        name, tree = self._tree()
        with (
            Store(self.store, create=True) as store,
            contextlib.suppress(SignatureConflict),
        ):
            store.put(name, tree, replace=self.chance.random() < 0.3)

    def put_by_command(self) -> None:
        name, tree = self._tree()
        replace = ("--replace",) if self.chance.random() < 0.3 else ()
        self._cas("put", *replace, name, str(tree), allowed=(ExitCode.CONFLICT,))

    def read_layers(self) -> None:
        numbers = self._some()
        with (
            Store(self.store, create=True) as store,
            store.compose(map(_name, numbers)) as composition,
        ):
            for number, artifact in zip(numbers, composition.artifacts, strict=True):
                self._check(snapshot(store.layer_path(artifact)), [number])

    def mount(self) -> None:
        numbers, more = self._some(), self._some()
        target = self.work / "target"
        copy, auto = mounter.Strategy.COPY, mounter.Strategy.AUTO
        strategy = self.chance.choice(tuple(mounter.Strategy) if ROOT else (copy, auto))
        with Store(self.store, create=True) as store:
            with store.compose(map(_name, numbers)) as composition:
                mounter.mount(composition, target, strategy)
            try:
                self._check(snapshot(target), numbers)
                # Another user's files may not be linked, and an update keeps the strategy.
                with contextlib.suppress(NoSuchSignature, mounter.NoStrategy):
                    with store.compose(map(_name, more)) as composition:
                        mounter.update(composition, target)
                    numbers = more
                self._check(snapshot(target), numbers)
            finally:
                mounter.umount(self.store, target)
        assert not target.exists()

    def mount_by_command(self) -> None:
        numbers, more = self._some(), self._some()
        target = self.work / "target"
        self._cas("mount", "target", *map(_name, numbers))
        try:
            self._check(snapshot(target), numbers)
            with contextlib.suppress(_TrueReason):
                self._cas("update", "target", *map(_name, more), allowed=(ExitCode.NO_STRATEGY,))
                numbers = more
            self._check(snapshot(target), numbers)
        finally:
            self._cas("umount", "target")
        assert not target.exists()

    def run(self) -> None:
        numbers = self._some()
        seen = self.work / "seen"
        sysroot = self.work / "sysroot"
        with (
            Store(self.store, create=True) as store,
            store.compose(map(_name, numbers)) as composition,
        ):
            assert mounter.run(["cp", "-r", f"{sysroot}/.", str(seen)], {sysroot: composition}) == 0
        self._check(snapshot(seen), numbers)
        subprocess.run(["rm", "-rf", seen], check=True)

    def run_by_command(self) -> None:
        numbers = self._some()
        sysroot = "sysroot=" + ",".join(map(_name, numbers))
        self._cas("run", "--sysroot", sysroot, "--", "cp", "-r", "sysroot/.", "seen")
        self._check(snapshot(self.work / "seen"), numbers)
        subprocess.run(["rm", "-rf", self.work / "seen"], check=True)

    def remove(self) -> None:
        with Store(self.store, create=True) as store:
            store.remove([_name(self.chance.randrange(RECIPES))], force=self.chance.random() < 0.2)

    def remove_by_command(self) -> None:
        self._cas("rm", _name(self.chance.randrange(RECIPES)))

    def collect(self) -> None:
        size = self.chance.choice((None, 0, 1 << 20))
        age = None if size is not None else self.chance.choice((None, 0))
        with Store(self.store, create=True) as store:
            store.gc(store.plan_gc(Policy(max_age_ns=age, max_size=size, grace_ns=0)))

    def collect_by_command(self) -> None:
        self._cas("gc", "--keep-last=1", "--max-age=0s", "--grace=0s")

    def pin(self) -> None:
        name = _name(self.chance.randrange(RECIPES))
        with Store(self.store, create=True) as store:
            store.pin(name, "stress")
            store.unpin(name)

    def pin_by_command(self) -> None:
        name = _name(self.chance.randrange(RECIPES))
        self._cas("pin", name)
        self._cas("unpin", name)

    def verify_by_command(self) -> None:
        assert self._cas("verify", "--quick") == "no faults found\n"

    def verify(self) -> None:
        with Store(self.store, create=True) as store:
            findings = list(store.verify(quick=self.chance.random() < 0.5))
            assert findings == [], findings


class _TrueReason(Exception):
    """A command said that a signature is not there, or is in use."""


def main() -> None:
    """Do as the arguments say."""
    seed, operations = int(sys.argv[1]), int(sys.argv[2])
    store, directory = Path(sys.argv[3]), Path(sys.argv[4])
    work = directory / f"worker-{seed}"
    work.mkdir()
    worker = Worker(seed, store, directory / "trees", work)
    for _ in range(operations):
        worker.step()


if __name__ == "__main__":
    main()
