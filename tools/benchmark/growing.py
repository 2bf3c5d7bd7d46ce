"""The same work in larger stores, with more layers, and with larger trees."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import mounter
from benchmark.assemble import bare_mount
from benchmark.bench import CAS, Bench
from benchmark.measuring import Contender, Measured, Table, measure, peak_memory, remove, say
from cas.index.database import Index
from cas.model.artifact import Artifact
from cas.model.manifest import Digest
from cas.model.signature import Signature
from cas.store import Store
from cas.system.workers import Worker
from mounter import syscalls

_SIZES, _QUICK_SIZES = (1_000, 10_000, 100_000), (500, 1_000)
_INDEX, _QUICK_INDEX = 1_000_000, 100_000
_FILES, _QUICK_FILES = (10_000, 100_000, 1_000_000), (10_000,)
_LAYERS = (2, 10, 50, 135, 500)
_MOUNTED = 135
_OFTEN = 10
"""Repetitions in each round, since a few milliseconds are lost in noise."""
_LOOKUPS = 1000


def run(bench: Bench) -> Iterator[Table]:
    """Yield the tables of stores, layers and trees that grow."""
    place = bench.place / "growing"
    with Store(place / "store", create=True) as store:
        growing = _Growing(place, store)
        rows: list[Measured] = []
        for size in _QUICK_SIZES if bench.quick else _SIZES:
            growing.fill(size)
            contender = Contender(f"{size:,} artifacts", growing.steps())
            (row,) = measure([contender], bench.rounds * _OFTEN)
            row.values["memory, MiB"] = [growing.memory()]
            rows.append(row)
        rows += _index(bench, place)
        yield Table("grow", f"A store grows ({_MOUNTED} mounted)", bench.file_system, rows)
        contenders = [c for count in _LAYERS for c in growing.layers(count)]
        rows = measure(contenders, bench.rounds * _OFTEN)
        yield Table("layers", "More layers are mounted", bench.file_system, rows)
    remove(place)
    rows = [_large(bench, files) for files in (_QUICK_FILES if bench.quick else _FILES)]
    yield Table("large", "A large tree is stored", bench.file_system, rows)


class _Growing:
    """A store of small trees."""

    def __init__(self, place: Path, store: Store) -> None:
        self._place, self._store = place, store
        self._target = place / "target"
        self._target.mkdir()
        self._count = 0

    def fill(self, size: int) -> None:
        """Put trees of one file each, by two processes, until there are `size` artifacts."""
        say(f"  (filling a store with {size:,} artifacts)")
        numbers = range(self._count, size)
        workers = [Worker[None](partial(self._put_some, numbers[part::2])) for part in (0, 1)]
        for worker in workers:
            worker.all_results()
        self._count = size
        self._store.sync()

    def _put_some(self, numbers: range, _: Callable[[None], None]) -> None:
        self._store.close()  # which the parent opened
        with Store(self._store.path) as store:
            for number in numbers:
                store.put(_name(number), self._tree(number), move=True)

    def _tree(self, number: int) -> Path:
        tree = self._place / f"tree-{number}"
        tree.mkdir()
        (tree / f"file-{number}").write_text(str(number))
        return tree

    def steps(self) -> dict[str, Callable[[], float | None]]:
        """Return the contender that is measured at each size."""
        self._mount(_MOUNTED)  # its composition is cached from now on
        self._umount()
        return {
            "mount": partial(self._mount, _MOUNTED),
            "take away": self._umount,
            "put": self._put_one,
            "lookup": partial(_lookup, self._store, self._count),
        }

    def _mount(self, count: int) -> None:
        with self._store.compose(map(_name, range(count))) as composition:
            mounter.mount(composition, self._target)

    def _umount(self) -> None:
        mounter.umount(self._store.path, self._target)

    def memory(self) -> float:
        """Return the peak memory of `cas mount` (MiB)."""
        names = map(_name, range(_MOUNTED))
        taken = peak_memory(CAS, "--store", self._place / "store", "mount", self._target, *names)
        self._umount()
        return taken

    def _put_one(self) -> float:
        number = time.time_ns()
        tree = self._tree(number)
        began = time.perf_counter()
        self._store.put(_name(number), tree, move=True)
        return time.perf_counter() - began

    def layers(self, count: int) -> Iterator[Contender]:
        """Yield the ways to mount that many artifacts."""
        found = (self._store.resolve(_name(number)) for number in range(count))
        layers = [Path(os.fsdecode(self._store.layer_path(artifact))) for artifact in found]
        yield Contender(
            f"mounter.mount, {count} layers",
            {"assemble": partial(self._mount, count), "take away": self._umount},
        )
        yield Contender(
            f"bare system calls, {count} layers",
            {
                "assemble": partial(bare_mount, layers, self._target),
                "take away": partial(syscalls.umount, os.fsencode(self._target)),
            },
        )


def _name(number: int) -> str:
    return f"small-{number % 1000}:t:{number:020x}"


def _lookup(store: Store, count: int) -> float:
    """Return the time to find one artifact of many (seconds)."""
    step = max(count // _LOOKUPS, 1)
    names = [_name(number) for number in range(0, count, step)]
    began = time.perf_counter()
    for name in names:
        store.find(name)
    return (time.perf_counter() - began) / len(names)


def _index(bench: Bench, place: Path) -> list[Measured]:
    """Measure lookups in an index of very many artifacts that have no trees."""
    count = _QUICK_INDEX if bench.quick else _INDEX
    say(f"  (filling an index with {count:,} artifacts)")
    with Store(place / "index", create=True) as store:
        path = store.path
    index = Index(os.path.join(path, b"index"), os.path.join(path, b"lock"))
    for start in range(0, count, 10_000):
        with index.write() as writer:
            for number in range(start, start + 10_000):
                writer.put(_artifact(number))
    index.close()
    with Store(path) as store:
        steps = {"lookup": partial(_lookup, store, count)}
        return measure([Contender(f"{count:,} artifacts (index only)", steps)], bench.rounds)


def _artifact(number: int) -> Artifact:
    tree = Digest(f"{number:064x}")
    signature = Signature.parse(_name(number))
    return Artifact(signature, tree, 1, 0, 0, 1, time.time_ns(), boot_id=None)


def _large(bench: Bench, files: int) -> Measured:
    """Measure a put of a tree of very many files; once, since it takes long."""
    say(f"  (a tree of {files:,} files)")
    place = bench.place / "large"
    for number in range(files):
        if number % 1000 == 0:
            directory = place / f"tree/directory-{number // 1000}"
            directory.mkdir(parents=True)
        (directory / f"file-{number}").write_text(str(number))
    os.sync()
    row = Measured(f"{files:,} files")
    began = time.perf_counter()
    memory = peak_memory(CAS, "--store", place / "store", "put", _name(files), place / "tree")
    row.values = {"cas put": [time.perf_counter() - began], "memory, MiB": [memory]}
    remove(place)
    return row
