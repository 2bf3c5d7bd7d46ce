"""Parallel work in forked processes, since Python's threads do not run in parallel.

A worker inherits everything from its parent, including locks, so the kernel ends it when the parent
ends in any way. (Workers of `concurrent.futures` would then wait for ever, and keep the locks.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import heapq
import os
import pickle
import select
import signal
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Generic, NoReturn, TypeVar

from cas.errors import CasError
from cas.system.debug_log import debug
from cas.system.signals import CRASH_SIGNALS, signals_blocked

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_LENGTH = struct.Struct("=Q")
_READ_BYTES = 1 << 20


class WorkerEnded(CasError):
    """A worker process ended early; `signal` is the signal that killed it, or 0."""

    def __init__(self, code: int) -> None:
        self.signal = -min(code, 0)
        end = (
            f"killed ({signal.strsignal(self.signal)})"
            if self.signal
            else f"ended (exit code {code})"
        )
        super().__init__(
            f"a worker process was {end}",
            hint="try again; `cas gc` removes leftovers; `dmesg` shows whether memory ran out",
        )


def run_parallel(
    work: Callable[[Sequence[_Item], Callable[[_Result], None]], None],
    items: Iterable[_Item],
    on_result: Callable[[_Result], None],
    *,
    weight: Callable[[_Item], int],
    min_weight: int,
    always_fork: bool = False,
    max_workers: int | None = None,
) -> None:
    """Split the items over the processors; call `work(part, emit)` in one process for each part.

    `on_result` is called in this process with each result that a worker emits. The parts have about
    equal weights, and begin with their heaviest items. Without `always_fork`, this process does the
    work itself if all items together weigh at most `min_weight`, or if there is only one processor
    or item, and it does the part of a process that cannot be forked. `max_workers` limits the
    number of processes.

    An exception of `work` is raised here, and ends all workers; results emitted before it, or
    before any other exception, are delivered first. Raises WorkerEnded, OSError.
    """
    parts = _balanced_parts(items, weight, min_weight, max_workers)
    if len(parts) == 1 and not always_fork:
        return work(parts[0], on_result)
    workers: list[Worker[_Result]] = []
    try:
        with signals_blocked():
            while parts and (worker := _fork_worker(partial(work, parts[0]), needed=always_fork)):
                workers.append(worker)
                del parts[0]
        debug("forked %d workers; %d parts of the work are left", len(workers), len(parts))
        for part in parts:
            work(part, on_result)
        running, waiting = {worker.fd: worker for worker in workers}, select.poll()
        for fd in running:
            waiting.register(fd)
        while running:
            for fd, _ in waiting.poll():
                with signals_blocked():  # no result is lost between reading and delivering it
                    for result in running[fd].results():
                        on_result(result)
                if running[fd].has_ended:
                    waiting.unregister(fd)
                    del running[fd]
    finally:
        with signals_blocked():
            for worker in workers:
                for result in worker.end():
                    on_result(result)


def _fork_worker(
    work: Callable[[Callable[[_Result], None]], None], *, needed: bool
) -> Worker[_Result] | None:
    """Return a new worker; None if a process limit or lack of memory forbids it (fork(2)).

    If the worker is `needed`, that raises OSError, too.
    """
    try:
        return Worker(work)
    except OSError as error:
        if needed or error.errno not in (errno.EAGAIN, errno.ENOMEM):
            raise
        return None


def _balanced_parts(
    items: Iterable[_Item], weight: Callable[[_Item], int], min_weight: int, max_workers: int | None
) -> list[list[_Item]]:
    """Assign the items, the heaviest first, each to the part that is lightest so far."""
    heaviest_first = sorted(items, key=weight, reverse=True)
    count = len(os.sched_getaffinity(0)) if sum(map(weight, heaviest_first)) > min_weight else 1
    count = count if max_workers is None else min(count, max_workers)
    parts: list[list[_Item]] = [[] for _ in range(count)]
    weights = [(0, number) for number in range(count)]
    for item in heaviest_first:
        lightest, number = weights[0]
        parts[number].append(item)
        heapq.heapreplace(weights, (lightest + weight(item), number))
    return [part for part in parts if part] or [[]]


class _End:
    """The message after the last result."""


class Worker(Generic[_Result]):
    """A forked process that calls `work(emit)`; each emitted result arrives through `fd`.

    The creator must call `end`.
    """

    def __init__(self, work: Callable[[Callable[[_Result], None]], None]) -> None:
        self.has_ended = False
        self._data = bytearray()
        self.fd, results_end = os.pipe()
        alive, self._alive = os.pipe()  # never written to: it closes when this process ends
        parent = os.getpid()
        try:
            self._pid = os.fork()
            if self._pid == 0:
                os.close(self._alive)
                _serve(work, results_end, alive, parent)
        except BaseException:
            os.close(self._alive)
            os.close(self.fd)
            raise
        finally:
            os.close(results_end)
            os.close(alive)

    def results(self) -> Iterator[_Result]:
        """Wait for data, and yield the complete results; set `has_ended` after the last one.

        Raises WorkerEnded, and the exception of `work`.
        """
        data = os.read(self.fd, _READ_BYTES)
        if not data:
            raise WorkerEnded(self._wait())
        self._data += data
        for result in self._complete():
            if isinstance(result, _End):
                self._wait()  # later forks may keep the pipe open
            elif isinstance(result, Exception):
                raise result
            else:
                yield result

    def all_results(self) -> list[_Result]:
        """Wait for all results and return them; then, or after an error, the process has ended.

        Raises as `results`.
        """
        results: list[_Result] = []
        try:
            while not self.has_ended:
                results += self.results()
            return results
        finally:
            tuple(self.end())

    def end(self) -> Iterator[_Result]:
        """Kill the process, wait for its end, and yield the results that were left."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._wait()
        os.set_blocking(self.fd, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, _READ_BYTES):
                self._data += data
        os.close(self.fd)
        os.close(self._alive)
        yield from (r for r in self._complete() if not isinstance(r, Exception | _End))

    def _wait(self) -> int:
        """Wait for the end of the process; return its exit code, 0 if it is unknown."""
        self.has_ended = True
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        except ChildProcessError:  # SIGCHLD is ignored, so the kernel reaped it (wait(2))
            return 0

    def _complete(self) -> Iterator[_Result | Exception | _End]:
        """Yield the complete messages; each begins with its length in bytes."""
        while len(self._data) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._data)[0]
            if len(self._data) < end:
                return
            message = bytes(self._data[_LENGTH.size : end])
            del self._data[:end]
            yield pickle.loads(message)


def _serve(
    work: Callable[[Callable[[_Result], None]], None], results: int, alive: int, parent: int
) -> NoReturn:
    code = 1
    try:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the parent ends its workers
        for number in (signal.SIGIO, *CRASH_SIGNALS):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
        _end_when_closed(alive)
        if os.getppid() != parent:  # it ended before the pipe was watched
            os._exit(code)
        with os.fdopen(results, "wb") as file:

            def emit(result: object) -> None:
                message = pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
                file.write(_LENGTH.pack(len(message)) + message)
                file.flush()

            try:
                work(emit)
                emit(_End())
            except Exception as error:
                emit(error)
        code = 0
    finally:
        os._exit(code)  # not sys.exit(): `finally` blocks and atexit are the parent's


def _end_when_closed(pipe: int) -> None:
    """Let the kernel end this process by SIGIO when the other end of a pipe is closed."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)
