"""Sharing the packages' trees through an object store, SeaweedFS, on this machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmark import casd
from benchmark.bench import Bench
from benchmark.measuring import Contender, Failed, Table, command, measure, remove, say
from cas.model.signature import Signature
from cas.remote.object_store import ObjectStore, RemoteConfig
from cas.remote.processes import pull_from, push_to
from cas.remote.push import PushOptions
from cas.remote.results import Outcome, Pulled, Pushed
from cas.store import Store
from cas.system.workers import run_parallel
from tests.helpers.remotes import BUCKET, ENVIRONMENT, Seaweed

_THREADS = 32  # of each of two processes
_FEW = 5  # `aws s3 sync` has ten requests at once by default
_LARGEST = 1 << 30
_DELAY_S = 0.02
_ONE_IN = 20
PUSH, AGAIN, PULL, LITTLE = "push", "again", "pull", "pull, 5 % missing"


def run(bench: Bench) -> Iterator[Table]:
    """Yield the tables of a near object store and of a distant one."""
    place = bench.place / "sharing"
    (place / "server").mkdir(parents=True)
    server = Seaweed(place / "server")
    os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.port}")
    try:
        partly = _Partly(bench, place / "partly")
        for title, delay_s in (("", 0.0), (f", {_DELAY_S * 1000:.0f} ms away", _DELAY_S)):
            contenders = [*_contenders(bench, place, partly)]
            if not delay_s:  # the delay applies to requests of this process only
                peer = casd.Remote(place / "casd", bench.trees)
                steps = {PUSH: peer.push, PULL: peer.pull}
                contenders.append(Contender("buildbox-casd", steps, peer.begin, peer.end))
            with _away(delay_s):
                rows = measure(contenders, bench.rounds)
            name = "share-far" if delay_s else "share"
            what = f"{len(bench.trees)} trees are shared{title}"
            yield Table(name, what, bench.file_system, rows)
    finally:
        server.kill()
        remove(place)


@contextlib.contextmanager
def _away(delay_s: float) -> Iterator[None]:
    """Delay each request, as if the object store were distant."""
    ask = ObjectStore._errors_as_sentences

    def later(*arguments: Any, **known: Any) -> Any:
        time.sleep(delay_s)
        return ask(*arguments, **known)

    with (
        mock.patch.object(ObjectStore, "_errors_as_sentences", later)
        if delay_s
        else contextlib.nullcontext()
    ):
        yield


def _contenders(bench: Bench, place: Path, partly: _Partly) -> Iterator[Contender]:
    numbers = itertools.count()
    fresh = place / "fresh"
    gone = partial(remove, fresh)

    def remote() -> RemoteConfig:
        return RemoteConfig(f"s3://{BUCKET}/{time.time_ns()}-{next(numbers)}")

    ours = _Ours(bench, fresh, partly, remote)
    yield Contender("push and pull", ours.steps(), before=ours.begin, after=gone)
    for name, peer in (
        ("an object for each tree", _archives(bench, fresh, remote)),
        ("an object for each file", _files(bench, fresh, remote, _THREADS)),
        ("an object for each file, 10 at once", _files(bench, fresh, remote, _FEW)),
    ):
        yield Contender(name, peer.steps(), before=peer.begin, after=gone)


class _Partly:
    """A store with 19 of 20 files of each tree."""

    def __init__(self, bench: Bench, place: Path) -> None:
        say("  (filling a store with most of each tree)")
        self.store = Store(place, create=True)
        scratch = place.with_name("scratch")
        scratch.mkdir()
        command("cp", "-al", *bench.trees, scratch)
        for number, tree in enumerate(bench.trees):
            copy = scratch / tree.name
            files = sorted(p for p in copy.rglob("*") if p.is_file() and not p.is_symlink())
            for path in files[::_ONE_IN]:
                path.unlink()
            self.store.put(f"{tree.name}:partly:{number:08x}", copy)
        remove(scratch)


class _Ours:
    def __init__(
        self, bench: Bench, fresh: Path, partly: _Partly, remote: Callable[[], RemoteConfig]
    ) -> None:
        self._bench, self._fresh, self._partly, self._new = bench, fresh, partly, remote
        self._remote = remote()

    def begin(self) -> None:
        """Let the next push be the first one."""
        self._remote = self._new()
        _ = self._bench.store

    def steps(self) -> dict[str, Callable[[], float | None]]:
        """Return the contender."""
        return {PUSH: self._push, AGAIN: self._push, PULL: self._pull, LITTLE: self._pull_little}

    def _push(self) -> None:
        done: list[Pushed] = []
        store = self._bench.store
        push_to(store, self._remote, PushOptions(), store.artifacts(), done.append)
        if {one.outcome for one in done} - {Outcome.PUSHED, Outcome.KNOWN}:
            raise Failed("not all was pushed")

    def _pull(self) -> None:
        with Store(self._fresh, create=True) as store:
            self._pull_into(store)

    def _pull_little(self) -> float:
        began = time.perf_counter()
        self._pull_into(self._partly.store)
        took = time.perf_counter() - began
        self._partly.store.remove(self._bench.names)
        return took

    def _pull_into(self, store: Store) -> None:
        done: list[Pulled] = []
        names = map(Signature.parse, self._bench.names)
        pull_from(store, self._remote, (), names, done.append)
        if {one.outcome for one in done} != {Outcome.PULLED}:
            raise Failed("not all was pulled")


class _Peer:
    """Shares files as objects, by two processes with many threads each.

    `read` returns the data to send for an item; `write` stores received data in a directory.
    """

    def __init__(
        self,
        place: Path,
        remote: Callable[[], RemoteConfig],
        items: Sequence[Path],
        read: Callable[[Path], bytes],
        write: Callable[[Path, int, bytes], None],
        threads: int,
    ) -> None:
        self._place, self._new, self._remote = place, remote, remote()
        self._items, self._read, self._write, self._threads = items, read, write, threads

    def begin(self) -> None:
        """Let the next push be the first one."""
        self._remote = self._new()

    def steps(self) -> dict[str, Callable[[], float | None]]:
        """Return the contender."""
        return {PUSH: partial(self._each, self._push), PULL: self._pull}

    def _pull(self) -> None:
        self._place.mkdir()
        self._each(self._fetch)

    def _each(self, do: Callable[[ObjectStore, int], None]) -> None:
        def work(numbers: Sequence[int], give: Callable[[None], None]) -> None:
            bucket = ObjectStore(self._remote)
            with ThreadPoolExecutor(self._threads) as pool:
                for _ in pool.map(partial(do, bucket), numbers):
                    pass

        items = range(len(self._items))
        run_parallel(
            work, items, lambda _: None, weight=lambda _: 1, min_weight=0, always_fork=True
        )

    def _push(self, bucket: ObjectStore, number: int) -> None:
        bucket.put(str(number), self._read(self._items[number]))

    def _fetch(self, bucket: ObjectStore, number: int) -> None:
        data = bucket.get(str(number), _LARGEST)
        if data is None:
            raise Failed(f"{number} is not there")
        self._write(self._place, number, data)


def _files(bench: Bench, place: Path, remote: Callable[[], RemoteConfig], threads: int) -> _Peer:
    files = [
        Path(directory, name)
        for tree in bench.trees
        for directory, _, names in os.walk(tree)
        for name in names
        if not os.path.islink(os.path.join(directory, name))
    ]

    def write(place: Path, number: int, data: bytes) -> None:
        path = place / files[number].relative_to(bench.place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return _Peer(place, remote, files, Path.read_bytes, write, threads)


def _archives(bench: Bench, place: Path, remote: Callable[[], RemoteConfig]) -> _Peer:
    def read(tree: Path) -> bytes:
        pack = f"tar -C {tree} -c . | zstd -q"
        return subprocess.run(["sh", "-c", pack], check=True, capture_output=True).stdout

    def write(place: Path, number: int, data: bytes) -> None:
        path = place / bench.trees[number].name
        path.mkdir()
        subprocess.run(["sh", "-c", f"zstd -dq | tar -C {path} -x"], check=True, input=data)

    return _Peer(place, remote, bench.trees, read, write, 4)
