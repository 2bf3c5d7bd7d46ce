"""Worker processes: all work is done, errors arrive, and workers end with their parent."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from cas.system.directories import TooDeep
from cas.system.shared_queue import SharedQueue
from cas.system.workers import WorkerEnded, run_parallel

_Emit = Callable[[Any], None]


def _doubled(numbers: Sequence[int], emit: _Emit) -> None:
    for number in numbers:
        emit((os.getpid(), 2 * number))


def _results(work: Callable[[Sequence[int], _Emit], None], items: Iterable[int]) -> list[Any]:
    done: list[Any] = []
    run_parallel(work, items, done.append, weight=lambda number: number, min_weight=10)
    return done


def test_work_is_done_once_by_evenly_loaded_processes() -> None:
    done = _results(_doubled, range(10_000))

    assert sorted(result for _, result in done) == list(range(0, 20_000, 2))
    loads: dict[int, int] = {}
    for pid, result in done:
        loads[pid] = loads.get(pid, 0) + result
    assert len(loads) == len(os.sched_getaffinity(0))
    assert max(loads.values()) - min(loads.values()) < 20_000


def test_small_work_forks_no_process() -> None:
    assert _results(_doubled, []) == []
    assert _results(_doubled, [1000]) == [(os.getpid(), 2000)]
    assert sorted(_results(_doubled, [1, 2, 7])) == [(os.getpid(), 2 * n) for n in (1, 2, 7)]


def test_shared_queue_gives_each_item_once_without_waiting() -> None:
    done: list[tuple[int, int]] = []

    def work(_: Sequence[int], emit: _Emit) -> None:
        for item in queue:
            emit((os.getpid(), item))
            time.sleep(0.2 if item == 0 else 0)

    with SharedQueue(range(100)) as queue:
        run_parallel(
            work,
            (1, 2),
            done.append,
            weight=lambda _: 1,
            min_weight=0,
            always_fork=True,
            max_workers=2,
        )

    assert sorted(item for _, item in done) == list(range(100))
    slow = next(pid for pid, item in done if item == 0)
    assert sum(pid == slow for pid, _ in done) < 50


def test_shared_queue_gives_no_item_twice() -> None:
    def work(_: Sequence[int], emit: _Emit) -> None:
        emit(list(queue))

    for _ in range(10):
        done: list[list[int]] = []
        with SharedQueue(range(20_000)) as queue:
            run_parallel(
                work, (1, 2, 3, 4), done.append, weight=lambda _: 1, min_weight=0, always_fork=True
            )
        assert sorted(item for items in done for item in items) == list(range(20_000))


def test_large_results_arrive_from_all_workers() -> None:
    def work(items: Sequence[int], emit: _Emit) -> None:
        for item in items:
            emit(b"%d" % item * 500_000)

    assert sorted(_results(work, range(10))) == [b"%d" % item * 500_000 for item in range(10)]


@pytest.mark.parametrize(
    "error", [OSError(5, os.strerror(5), "/the/path"), TooDeep(b"a/b"), ValueError("no")], ids=repr
)
def test_worker_error_arrives_after_its_results(error: Exception) -> None:
    def work(items: Sequence[int], emit: _Emit) -> None:
        for item in items:
            emit(item)
        if 1 in items:
            raise error

    done: list[int] = []
    with pytest.raises(type(error)) as raised:
        run_parallel(work, range(100), done.append, weight=lambda number: 1, min_weight=10)
    assert set(done) >= set(range(1, 100, len(os.sched_getaffinity(0))))
    assert str(raised.value) == str(error)
    if isinstance(error, TooDeep):
        assert vars(raised.value) == vars(error)


def test_killed_worker_is_an_error() -> None:
    def work(_: Sequence[int], emit: _Emit) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerEnded, match="Killed"):
        _results(work, range(100))


def test_interrupt_ends_all_workers_and_loses_no_result() -> None:
    def work(items: Sequence[int], emit: _Emit) -> None:
        emit(os.getpid())
        if 0 in items:
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(1000)

    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_parallel(work, range(100), done.append, weight=lambda number: 1, min_weight=10)
    for pid in done:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


_PARENT = """
import os, signal, time
from cas.system.shared_queue import SharedQueue
from cas.system.workers import Worker
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
def work(emit):
    emit(os.getpid())
    time.sleep(1000)
workers = [Worker(work) for _ in range(3)]
print(*(next(worker.results()) for worker in workers), flush=True)
time.sleep(1000)
"""


def test_workers_end_with_a_killed_parent() -> None:
    """Workers inherit locks, which would otherwise stay held."""
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert len(parent.stdout.readline().split()) == 3
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == b""  # every process has closed the pipe
    parent.stdout.close()


_WITH_OTHER_CHILDREN = """
import os, signal, time
from cas.system.shared_queue import SharedQueue
from cas.system.workers import run_parallel
others = []
def fork():
    if not others:
        others.append(0)
        others.append(os.fork())
        if others[1] == 0:
            time.sleep(1000)
            os._exit(0)
if {reaped}:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
else:
    os.register_at_fork(after_in_parent=fork)
done = []
def work(items, emit):
    for item in items:
        emit(item)
run_parallel(work, range(100), done.append, weight=lambda item: 1, min_weight=10)
print(sorted(done) == list(range(100)))
for other in others[1:]:
    os.kill(other, signal.SIGKILL)
"""


@pytest.mark.parametrize("reaped", [False, True])
def test_worker_end_is_seen_despite_inherited_pipes(reaped: bool) -> None:
    command = [sys.executable, "-c", _WITH_OTHER_CHILDREN.format(reaped=reaped)]
    assert subprocess.run(command, capture_output=True, timeout=60).stdout == b"True\n"


@pytest.mark.per_user
def test_failed_fork_is_done_in_the_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As at the limit of processes of a user, which does not apply to root (setrlimit(2))."""
    fork, forks = os.fork, [0]

    def fork_once() -> int:
        forks[0] += 1
        if forks[0] > 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    monkeypatch.setattr(os, "fork", fork_once)
    done = _results(_doubled, range(1000))

    assert sorted(result for _, result in done) == list(range(0, 2000, 2))
    assert os.getpid() in {pid for pid, _ in done}
    assert forks[0] == 2
