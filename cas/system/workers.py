"""Work for all processors: spread over processes, since threads of Python take turns.

Each is a fork, which has all that its parent had, and ends with it, however that ends: the locks
that it has too would hold what nobody uses. (Workers of `concurrent.futures` wait for ever then.)
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
from cas.system.signals import CRASHES, signals_blocked

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_LENGTH = struct.Struct("=Q")
_AT_ONCE = 1 << 20  # bytes


class WorkerEnded(CasError):
    """A process did not come to its end. `signal` ended it, or 0."""

    def __init__(self, code: int) -> None:
        self.signal = -min(code, 0)
        what = signal.strsignal(self.signal) if self.signal else f"exit code {code}"
        super().__init__(
            f"a process that took a part of the work was ended ({what})",
            hint="try again; `cas gc` gives back what was left; was memory short? (`dmesg`)",
        )


def run_parallel(
    work: Callable[[Sequence[_Item], Callable[[_Result], None]], None],
    items: Iterable[_Item],
    take: Callable[[_Result], None],
    *,
    weight: Callable[[_Item], int],
    least: int,
    apart: bool = False,
    most: int | None = None,
) -> None:
    """Let each processor do `work` with a part of the items; `take` gets what that gives, here.

    The parts have equal weights, as far as they can, and begin with their heaviest items. If all
    have no more than `least`, or there is one processor or item only, it is done here; and so is
    the part of a process that cannot be made. Nothing is done here if it is to be done `apart`.
    `most` is how many processes there are at most.

    What `work` raises is raised here, and ends all; and what was given before that, or before an
    exception of another source, is taken before. Raises WorkerEnded, OSError.
    """
    parts = _parts(items, weight, least, most)
    if len(parts) == 1 and not apart:
        return work(parts[0], take)
    workers: list[Worker[_Result]] = []
    try:
        with signals_blocked():
            while parts and (worker := _forked(partial(work, parts[0]), needed=apart)):
                workers.append(worker)
                del parts[0]
        for part in parts:
            work(part, take)
        running, waiting = {worker.fd: worker for worker in workers}, select.poll()
        for fd in running:
            waiting.register(fd)
        while running:
            for fd, _ in waiting.poll():
                with signals_blocked():  # nothing is lost between reading and taking it
                    for result in running[fd].results():
                        take(result)
                if running[fd].has_ended:
                    waiting.unregister(fd)
                    del running[fd]
    finally:
        with signals_blocked():
            for worker in workers:
                for result in worker.end():
                    take(result)


def _forked(
    work: Callable[[Callable[[_Result], None]], None], *, needed: bool
) -> Worker[_Result] | None:
    """Return a new process; None if there may be no more, or no memory for one (fork(2)).

    Raises OSError, also for that if it is `needed`.
    """
    try:
        return Worker(work)
    except OSError as error:
        if needed or error.errno not in (errno.EAGAIN, errno.ENOMEM):
            raise
        return None


def _parts(
    items: Iterable[_Item], weight: Callable[[_Item], int], least: int, most: int | None
) -> list[list[_Item]]:
    """Give one item after the other, the heaviest first, to the part that is lightest then."""
    heaviest_first = sorted(items, key=weight, reverse=True)
    count = len(os.sched_getaffinity(0)) if sum(map(weight, heaviest_first)) > least else 1
    count = count if most is None else min(count, most)
    parts: list[list[_Item]] = [[] for _ in range(count)]
    weights = [(0, number) for number in range(count)]
    for item in heaviest_first:
        lightest, number = weights[0]
        parts[number].append(item)
        heapq.heapreplace(weights, (lightest + weight(item), number))
    return [part for part in parts if part] or [[]]


class _End:
    """Comes after the last result."""


class Worker(Generic[_Result]):
    """A process that does `work`, which gives its results to the function that it gets.

    They come through `fd`. The process is to be ended by who made it.
    """

    def __init__(self, work: Callable[[Callable[[_Result], None]], None]) -> None:
        self.has_ended = False
        self._data = bytearray()
        self.fd, results_end = os.pipe()
        alive, self._alive = os.pipe()  # nothing is written to it: it closes when this one ends
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
        """Wait for something to come, and yield what is complete; or note that it has ended.

        Raises WorkerEnded, and what `work` raised.
        """
        data = os.read(self.fd, _AT_ONCE)
        if not data:
            raise WorkerEnded(self._wait())
        self._data += data
        for result in self._complete():
            if isinstance(result, _End):
                self._wait()  # others that were forked meanwhile may keep the pipe open
            elif isinstance(result, Exception):
                raise result
            else:
                yield result

    def all_results(self) -> list[_Result]:
        """Wait for all results; then, or if there is an error, the process has ended.

        Raises what `results` raises.
        """
        found: list[_Result] = []
        try:
            while not self.has_ended:
                found += self.results()
            return found
        finally:
            tuple(self.end())

    def end(self) -> Iterator[_Result]:
        """End the process, and wait for that; yield the results that were left."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._wait()
        os.set_blocking(self.fd, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, _AT_ONCE):
                self._data += data
        os.close(self.fd)
        os.close(self._alive)
        yield from (r for r in self._complete() if not isinstance(r, Exception | _End))

    def _wait(self) -> int:
        """Wait for the end of the process; return its exit code, as far as that is known."""
        self.has_ended = True
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        except ChildProcessError:  # as where SIGCHLD is ignored (wait(2))
            return 0

    def _complete(self) -> Iterator[_Result | Exception | _End]:
        """Yield what has come as a whole: its length in bytes comes first."""
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
            signal.signal(number, signal.SIG_IGN)  # it is for the parent to end this one
        for number in (signal.SIGIO, *CRASHES):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
        _end_when_closed(alive)
        if os.getppid() != parent:
            os._exit(code)
        with os.fdopen(results, "wb") as file:

            def give(result: object) -> None:
                message = pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
                file.write(_LENGTH.pack(len(message)) + message)
                file.flush()

            try:
                work(give)
                give(_End())
            except Exception as error:
                give(error)
        code = 0
    finally:
        os._exit(code)


def _end_when_closed(pipe: int) -> None:
    """Let the kernel end this process by SIGIO when nobody has the other end of a pipe open."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)
