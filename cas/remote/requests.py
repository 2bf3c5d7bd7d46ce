"""A bounded pool of requests to a remote."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

from cas.remote.object_store import ObjectStore, RemoteStalled
from cas.system.closeable import Closeable

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class RequestPool(Closeable):
    """Runs up to `jobs` requests of a remote at a time, each in a thread.

    Together they have at most `at_once` bytes, which bounds the memory. obstore, zstd and BLAKE3
    release the interpreter lock while they work.
    """

    def __init__(self, bucket: ObjectStore) -> None:
        self._bucket, self._remote = bucket, bucket.remote
        self._pool = ThreadPoolExecutor(bucket.remote.jobs)
        self._running: dict[Future[Any], int] = {}

    def begin(self, work: Callable[[], _Result], size: int = 0) -> Future[_Result]:
        """Start a request of `size` bytes as soon as enough earlier ones have ended.

        Raises RemoteStalled.
        """
        while len(self._running) >= self._remote.jobs or (
            self._running and sum(self._running.values()) + size > self._remote.at_once
        ):
            self._wait()
        future = self._pool.submit(work)
        self._running[future] = size
        return future

    def result(self, future: Future[_Result]) -> _Result:
        """Wait for a request, and return its result.

        Raises the exceptions of the request, and RemoteStalled if no data arrives for too long.
        """
        while not future.done():
            self._wait()
        return future.result()

    def _wait(self) -> None:
        """Wait until a request has ended, as long as data arrives."""
        timeout_s, began = self._remote.timeout_s, time.monotonic()
        done: set[Future[Any]] = set()
        while not done:
            left_s = max(began, self._bucket.last_data) + timeout_s - time.monotonic()
            if left_s <= 0:
                raise RemoteStalled(self._remote.url, timeout_s)
            done, _ = wait(self._running, left_s, FIRST_COMPLETED)
        for future in done:
            del self._running[future]

    def ahead(
        self,
        work: Callable[[_Item], _Result],
        items: Iterable[_Item],
        count: int,
        *,
        size: Callable[[_Item], int] = lambda item: 0,
    ) -> Iterator[tuple[_Item, _Result]]:
        """Yield items with the results of `work`, in order; run up to `count` of them ahead.

        `size` returns an upper bound of the bytes that the request of an item returns. Raises the
        exceptions of `work`, and RemoteStalled.
        """
        waiting: deque[tuple[_Item, Future[_Result]]] = deque()

        def first() -> tuple[_Item, _Result]:
            item, future = waiting.popleft()
            return item, self.result(future)

        for item in items:
            taken = size(item)
            while waiting and (
                len(waiting) >= count
                or sum(size(queued) for queued, _ in waiting) + taken > self._remote.at_once
            ):
                yield first()
            waiting.append((item, self.begin(partial(work, item), taken)))
        while waiting:
            yield first()

    def close(self) -> None:
        """Start no more requests. Running ones end with the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
