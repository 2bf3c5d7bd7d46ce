"""Real object stores for tests, and a proxy that misbehaves like networks and bad servers."""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from cas.store import Store
from tests.helpers.support import Cas, snapshot, sound, tidy

BUCKET = "artifacts"
ZLIB = "zlib:core2-64:do_populate_sysroot:9f2c41d0"
GTK = "gtk+3:do_populate_sysroot:12345678"
ABSENT = "absent:do_populate_sysroot:12345678"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
}


class Seaweed:
    """SeaweedFS, a real server of S3, on loopback: one process that does all."""

    def __init__(self, directory: Path) -> None:
        """Start it, with its data in `directory`."""
        self._directory = directory
        ports = [str(port) for port in free_ports(8)]
        names = ("master", "volume", "filer", "s3")
        self._filer, self.port = int(ports[2]), int(ports[3])
        self._arguments = [
            "mini", f"-dir={directory}", *_HERE, "-master.telemetry=false", "-admin.ui=false",
            "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-bucket={BUCKET}",
            *(f"-{name}.port={port}" for name, port in zip(names, ports, strict=False)),
            *(f"-{name}.port.grpc={port}" for name, port in zip(names, ports[4:], strict=True)),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self._process = _weed(self._directory, *self._arguments)
        _wait_for(self._directory, [self._process], self.port, f"/{BUCKET}", (200, 403))
        # The gateway does not reveal to a stranger whether the bucket exists; the filer does.
        _wait_for(self._directory, [self._process], self._filer, f"/buckets/{BUCKET}/", (200,))

    def kill(self) -> None:
        """Kill it."""
        _kill(self._process)


class Cluster:
    """The same as a cluster: a master, three volume servers, each content in two of them, a filer
    and a gateway."""

    def __init__(self, directory: Path) -> None:
        """Start it, with its data in `directory`."""
        free = free_ports(12)
        ports = [f"{port}.{rpc}" for port, rpc in zip(free[::2], free[1::2], strict=True)]
        self.port = int(ports[5].partition(".")[0])
        commands = [
            ["master", f"-mdir={directory}/master", "-defaultReplication=001",
             "-telemetry=false", "-volumeSizeLimitMB=64"],
            *(["volume", f"-dir={directory}/volume-{number}", f"-mserver=127.0.0.1:{ports[0]}",
               "-max=50"] for number in range(3)),
            ["filer", f"-defaultStoreDir={directory}/filer", f"-master=127.0.0.1:{ports[0]}",
             "-defaultReplicaPlacement=001"],
            ["s3", f"-filer=127.0.0.1:{ports[4]}", "-port.iceberg=0", "-port.lance=0"],
        ]  # fmt: skip
        for name in ("master", "filer", *(f"volume-{number}" for number in range(3))):
            (directory / name).mkdir()
        self._processes = [
            _weed(directory, *command, *_HERE, f"-port={port}", f"-port.grpc={rpc}")
            for command, (port, _, rpc) in zip(
                commands, (port.partition(".") for port in ports), strict=True
            )
        ]
        _wait_for(directory, self._processes, self.port, f"/{BUCKET}", (200, 403, 404))
        shell = [_PROGRAM, "shell", f"-master=127.0.0.1:{ports[0]}", f"-filer=127.0.0.1:{ports[4]}"]
        make = f"s3.bucket.create -name {BUCKET}\n"
        subprocess.run(shell, input=make, text=True, check=True, capture_output=True)

    def kill_one(self) -> None:
        """Kill a volume server."""
        _kill(self._processes[1])

    def kill(self) -> None:
        """Kill all of it."""
        for process in reversed(self._processes):
            _kill(process)


_PROGRAM = os.path.join(os.path.dirname(sys.executable), "weed")
_HERE = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1")


def _weed(directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = os.environ | ENVIRONMENT | {"TMPDIR": str(directory)}
    with (directory / "log").open("ab") as log:
        command = [_PROGRAM, f"-logdir={directory}", *arguments]
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _wait_for(
    directory: Path,
    processes: list[subprocess.Popen[bytes]],
    port: int,
    path: str,
    answers: tuple[int, ...],
) -> None:
    """Wait until a server gives one of some answers."""
    deadline = time.monotonic() + 120
    while _status(port, path) not in answers:
        said = (directory / "log").read_text(errors="replace")
        assert time.monotonic() < deadline, said
        assert all(process.poll() is None for process in processes), said
        time.sleep(0.05)


def _status(port: int, path: str) -> int:
    """Return how a server answers to a stranger; 0 if it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("HEAD", path)
        return connection.getresponse().status
    return 0


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_ports(count: int) -> list[int]:
    """Return free ports."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


_OWN = {"content-length", "transfer-encoding", "connection", "date"}
_PIECE = 1 << 16


class Exchange(NamedTuple):
    """A request with the server's answer."""

    method: str
    path: str
    status: int
    body: bytes


Fault = Callable[[Exchange], Exchange | None]
"""Changes what a client gets. None: nothing comes any more, and the connection stays open."""


class Proxy(ThreadingHTTPServer):
    """Forwards requests to a server; `fault` may change the answers.

    All bodies together pass at `rate` bytes a second; headers in `lacking` (lower case) are
    removed.
    """

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, port: int) -> None:
        """Listen, on behalf of the server at `port`."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = port
        self.fault: Fault = lambda exchange: exchange
        self.seen: list[Exchange] = []
        self.rate = math.inf
        self.lacking: set[str] = set()
        self._link = threading.Lock()
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        """The address it listens on."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def pieces(self, size: int) -> Iterator[int]:
        """Yield the sizes of the pieces in which a body passes, each when its time has come."""
        for start in range(0, size, _PIECE):
            piece = min(_PIECE, size - start)
            with self._link:
                time.sleep(piece / self.rate)
            yield piece

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that go away."""


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """Give a proxy that serves until the end."""
    with Proxy(port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.ended.set()
            proxy.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = b"".join(map(self.rfile.read, self.server.pieces(length)))
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            got = Exchange(self.command, self.path, answer.status, answer.read())
        self.server.seen.append(got)
        given = self.server.fault(got)
        if given is None:
            self.server.ended.wait()
            self.close_connection = True
            return
        self.send_response(given.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OWN | self.server.lacking:
                self.send_header(name, value)
        head = self.command == "HEAD"
        size = answer.getheader("Content-Length") if head else str(len(got.body))
        if not got.body.startswith(given.body):  # another answer, not one that was cut
            size = str(len(given.body))
        self.send_header("Content-Length", size or "0")
        self.end_headers()
        if not head:
            whole = io.BytesIO(given.body)
            for piece in self.server.pieces(len(given.body)):
                self.wfile.write(whole.read(piece))
            self.close_connection |= len(given.body) < int(size or 0)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def flipped(exchange: Exchange, at: int = -1) -> Exchange:
    """Return an answer with one bit changed."""
    body = bytearray(exchange.body)
    if body:
        body[at] ^= 1
    return exchange._replace(body=bytes(body))


def s3(work: Path) -> str:
    """Return an unused prefix in the bucket."""
    return f"s3://{BUCKET}/{work.parent.name}"


def pulled(there: Cas, remote: str, *names: str, code: int = 0) -> dict[str, str]:
    """Pull; return the outcome of each artifact."""
    done = there.json("pull", remote, *names, code=code)["artifacts"]
    return {one["id"]: one["status"] for one in done}


def same(here: Cas, there: Cas, *names: str) -> None:
    """Assert that two stores have the same trees, and that they are whole."""
    with Store(here.store) as first, Store(there.store) as second:
        for name in names:
            one, other = first.resolve(name), second.resolve(name)
            assert one.tree == other.tree
            assert one.dropped == other.dropped
            left, right = first.layer_path(one), second.layer_path(other)
            assert snapshot(left) == snapshot(right)
    sound(there.store)
    tidy(there.store)
