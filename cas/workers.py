"""Work for all processors: spread over processes, since threads of Python take turns.

Each is a fork, which has all that its parent had, and ends with it, however that ends: the locks
that it has too would hold what nobody uses. (Workers of `concurrent.futures` wait for ever then.)
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Generic, NoReturn, TypeVar

from cas.closing import Closing
from cas.errors import CasError
from cas.signals import CRASHES

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_PIPE_SIZE = 1 << 20  # what an ordinary user may have (pipe(7))
_DEFAULT = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGIO, *CRASHES)


class WorkerEnded(CasError):
    """A process did not come to its end. `signal` ended it, or 0."""

    def __init__(self, code: int) -> None:
        self.signal = -min(code, 0)
        what = signal.strsignal(self.signal) if self.signal else f"exit code {code}"
        super().__init__(f"a process that took a part of the work was ended ({what})")


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def spread(
    work: Callable[[Sequence[_Item]], Iterator[_Result]],
    items: Iterable[_Item],
    weight: Callable[[_Item], int],
) -> Iterator[_Result]:
    """Let each processor do `work` with a part of the items; yield the results as they come.

    The parts have equal weights, as far as they can, and begin with their heaviest items. What
    `work` raises is raised here, and ends all. With one processor or item it is done here. Raises
    WorkerEnded, OSError.
    """
    parts = _parts(items, weight)
    if len(parts) < 2:
        for part in parts:
            yield from work(part)
        return
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(partial(work, part))) for part in parts]
        while workers:  # in turn: a pipe holds enough to let the others go on meanwhile
            for worker in tuple(workers):
                try:
                    yield worker.receive()
                except EOFError:
                    workers.remove(worker)


def _parts(items: Iterable[_Item], weight: Callable[[_Item], int]) -> list[list[_Item]]:
    """Give one item after the other, the heaviest first, to the part that is lightest then."""
    parts: list[list[_Item]] = [[] for _ in range(processors())]
    weights = [(0, number) for number in range(len(parts))]
    for item in sorted(items, key=weight, reverse=True):
        lightest, number = weights[0]
        parts[number].append(item)
        heapq.heapreplace(weights, (lightest + weight(item), number))
    return [part for part in parts if part]


class Worker(Closing, Generic[_Result]):
    """A process that does `work`, and sends what that yields.

    To be closed by who made it, which ends the process.
    """

    def __init__(self, work: Callable[[], Iterator[_Result]]) -> None:
        self._pid = 0
        results, results_end = os.pipe()
        alive, self._alive = os.pipe()  # nothing is written to it: it closes when this one ends
        self._results = os.fdopen(results, "rb")
        parent = os.getpid()
        try:
            fcntl.fcntl(results, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            self._pid = os.fork()
            if self._pid == 0:
                os.close(self._alive)
                _serve(work, results_end, alive, parent)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(results_end)
            os.close(alive)

    def receive(self) -> _Result:
        """Wait for the next result. Raises EOFError, WorkerEnded, and what `work` raised."""
        try:
            result = pickle.load(self._results)
        except (EOFError, pickle.UnpicklingError):
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
            if status:
                raise WorkerEnded(os.waitstatus_to_exitcode(status)) from None
            raise EOFError from None
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process, and wait for that."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        self._results.close()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1


def _serve(
    work: Callable[[], Iterator[_Result]], results: int, alive: int, parent: int
) -> NoReturn:
    code = 1
    try:
        for number in _DEFAULT:
            signal.signal(number, signal.SIG_DFL)
        _end_when_closed(alive)
        if os.getppid() != parent:
            os._exit(code)
        with os.fdopen(results, "wb") as file:
            try:
                for result in work():
                    pickle.dump(result, file, pickle.HIGHEST_PROTOCOL)
                    file.flush()
            except Exception as error:
                pickle.dump(error, file)
        code = 0
    finally:
        os._exit(code)


def _end_when_closed(pipe: int) -> None:
    """Let the kernel end this process by SIGIO when nobody has the other end of a pipe open."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)
