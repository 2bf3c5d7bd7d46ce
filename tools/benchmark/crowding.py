"""Many processes at once: their total throughput, and the longest wait."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import mounter
from benchmark.bench import Bench
from benchmark.measuring import Contender, Measured, Table, measure
from cas.store import Store
from cas.system.workers import Worker

PROCESSES = (1, 2, 8, 32)
_EACH = 20
"""Repetitions in each process."""
_Work = Callable[[Path, int], None]


def run(bench: Bench) -> Iterator[Table]:
    """Yield the table of mounting all trees, and of putting small ones, by many processes."""
    bench.store.sync()
    bench.compose()
    place = bench.place / "crowd"
    place.mkdir()
    rows: list[Measured] = []
    for what, work in (("mount", partial(_mount, bench)), ("put", partial(_put, bench))):
        crowds = {count: _Crowd(bench, work, place, count) for count in PROCESSES}
        contenders = [
            Contender(
                f"{what}, {count} at once",
                {"/s": crowd.work, "longest": crowd.longest},
            )
            for count, crowd in crowds.items()
        ]
        rows += measure(contenders, bench.rounds)
    yield Table("many", "Many processes mount, and put", bench.file_system, rows)
    place.rmdir()


class _Crowd:
    """Processes that repeat the same work, and the longest time of one repetition (seconds)."""

    def __init__(self, bench: Bench, work: _Work, place: Path, count: int) -> None:
        self._bench, self._work, self._place, self._count = bench, work, place, count
        self._longest = 0.0

    def work(self) -> float:
        """Let them work; return the repetitions per second."""
        began = time.perf_counter()
        workers = [Worker[float](partial(self._repeat, number)) for number in range(self._count)]
        times = [took for worker in workers for took in worker.all_results()]
        self._longest = max(times)
        return len(times) / (time.perf_counter() - began)

    def longest(self) -> float:
        """Return the longest time (seconds) in the last `work`."""
        return self._longest

    def _repeat(self, number: int, give: Callable[[float], None]) -> None:
        self._bench.store.close()  # which the parent opened
        for turn in range(_EACH):
            began = time.perf_counter()
            self._work(self._place, _EACH * number + turn)
            give(time.perf_counter() - began)


def _mount(bench: Bench, place: Path, number: int) -> None:
    target = place / f"target-{number}"
    target.mkdir()
    with Store(bench.store.path) as store, store.compose(bench.names) as composition:
        mounter.mount(composition, target)
    mounter.umount(bench.store.path, target)
    target.rmdir()


def _put(bench: Bench, place: Path, number: int) -> None:
    tree = place / f"tree-{number}"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(100))
    with Store(bench.store.path) as store:
        store.put(f"crowd:t:{os.urandom(8).hex()}", tree, move=True)
