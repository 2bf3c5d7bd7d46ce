"""Processes that share work: all is done, errors come through, and nobody outlives another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest

from cas.dirs import TooDeep
from cas.errors import hint_for
from cas.workers import Worker, WorkerEnded, processors, spread


def _doubled(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    for number in numbers:
        yield os.getpid(), 2 * number


def test_everything_is_done_once_by_processes_of_equal_load() -> None:
    done = list(spread(_doubled, range(10_000), lambda number: number))

    assert sorted(result for _, result in done) == list(range(0, 20_000, 2))
    loads: dict[int, int] = {}
    for pid, result in done:
        loads[pid] = loads.get(pid, 0) + result
    assert len(loads) == processors()
    assert max(loads.values()) - min(loads.values()) < 20_000
    assert list(spread(_doubled, [], lambda number: number)) == []


def test_one_item_needs_no_process() -> None:
    assert list(spread(_doubled, [4], lambda number: number)) == [(os.getpid(), 8)]


def test_large_results_come_from_all() -> None:
    def work(items: Sequence[int]) -> Iterator[bytes]:
        for item in items:
            yield b"%d" % item * 500_000

    done = list(spread(work, range(10), lambda number: 1))
    assert sorted(done) == [b"%d" % item * 500_000 for item in range(10)]


@pytest.mark.parametrize(
    "error", [OSError(5, os.strerror(5), "/the/path"), TooDeep(b"a/b"), ValueError("no")], ids=repr
)
def test_error_comes_through_as_it_was(error: Exception) -> None:
    def work() -> Iterator[int]:
        yield 1
        raise error

    with Worker(work) as worker:
        assert worker.receive() == 1
        with pytest.raises(type(error)) as raised:
            worker.receive()
    assert str(raised.value) == str(error)
    if isinstance(error, TooDeep):
        assert vars(raised.value) == vars(error)
    elif isinstance(error, OSError):
        assert hint_for(error) == hint_for(raised.value)  # type: ignore[arg-type]


def test_ended_process_is_an_error() -> None:
    def work() -> Iterator[int]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield 1

    with Worker(work) as worker, pytest.raises(WorkerEnded, match="Killed"):
        worker.receive()


def test_nobody_waits_for_what_is_not_wanted() -> None:
    def work() -> Iterator[int]:
        yield os.getpid()
        time.sleep(1000)

    worker = Worker(work)
    pid = worker.receive()
    worker.close()
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


_PARENT = """
import os, time
from cas.workers import Worker
def work():
    yield os.getpid()
    time.sleep(1000)
workers = [Worker(work) for _ in range(3)]
print(*(worker.receive() for worker in workers), flush=True)
time.sleep(1000)
"""


def test_processes_end_with_a_parent_that_is_killed() -> None:
    """They have its locks, too, which would hold what nobody uses any more."""
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 3
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == b""  # which nobody has open any more
    parent.stdout.close()
