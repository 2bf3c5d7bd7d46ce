"""Requests that are under way while something else is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from cas.remote.bucket import Remote, RemoteStalled

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Requests:
    """Has up to `remote.jobs` requests under way, each in a thread.

    obstore lets go of the interpreter while it waits, and so do zstd and BLAKE3.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._pool = ThreadPoolExecutor(remote.jobs)
        self._running: set[Future[object]] = set()

    def begin(self, work: Callable[[], _Result]) -> Future[_Result]:
        """Begin a request, when one of those before has ended. Raises RemoteStalled."""
        while len(self._running) >= self._remote.jobs:
            self._wait()
        future = self._pool.submit(work)
        self._running.add(future)  # type: ignore[arg-type]
        return future

    def result(self, future: Future[_Result]) -> _Result:
        """Wait for a request, and return its result.

        Raises what it raises, and RemoteStalled if no request at all ends for too long.
        """
        while not future.done():
            self._wait()
        return future.result()

    def _wait(self) -> None:
        timeout_s = self._remote.timeout_s
        done, self._running = wait(self._running, timeout_s, FIRST_COMPLETED)
        if not done:
            raise RemoteStalled(self._remote.url, timeout_s)

    def ahead(
        self, work: Callable[[_Item], _Result], items: Iterable[_Item], count: int
    ) -> Iterator[tuple[_Item, _Result]]:
        """Yield items with the result of `work`, in their order; `count` are under way.

        Raises what `work` raises, and RemoteStalled.
        """
        waiting: deque[tuple[_Item, Future[_Result]]] = deque()
        for item in items:
            if len(waiting) >= count:
                first, future = waiting.popleft()
                yield first, self.result(future)
            waiting.append((item, self.begin(lambda item=item: work(item))))  # type: ignore[misc]
        for item, future in waiting:
            yield item, self.result(future)

    def close(self) -> None:
        """Begin nothing more. What is under way ends with the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
