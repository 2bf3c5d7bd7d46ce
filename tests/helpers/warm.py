"""Commands without the start of an interpreter: forked from a process that has `cas` loaded.

That process (prepared.py) is one for each process of pytest. A command gets from it what a child
of pytest would have: environment, directory, standard streams, umask, limits, processors. What an
interpreter reads only when it starts cannot be given: `can_fork` tells.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any

_PROJECT = Path(__file__).parents[2]
_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC", "GLIBC", "TZ")
_PIPE_BYTES = select.PIPE_BUF
_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


def _of_start() -> tuple[object, ...]:
    """Return what an interpreter reads when it starts, and whose process it is."""
    variables = {k: v for k, v in os.environ.items() if k.startswith(_AT_START)}
    return variables, os.getresuid(), os.getresgid(), os.getgroups(), _namespaces()


def _namespaces() -> list[str]:
    return [os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "user", "pid")]


def _limits() -> dict[int, tuple[int, int]]:
    return {number: resource.getrlimit(number) for number in _LIMITS}


@dataclass(frozen=True, slots=True)
class _Server:
    """The process that forks, and the state of the process that started it."""

    pid: int
    requests: socket.socket
    process: subprocess.Popen[bytes]
    of_start: tuple[object, ...]
    limits: dict[int, tuple[int, int]]


_server: _Server | None = None


def _started() -> _Server:
    """Return the server of this process; start it if there is none."""
    global _server
    if _server is None or _server.pid != os.getpid():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.prepared", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=_PROJECT,
            )
        _server = _Server(os.getpid(), ours, process, _of_start(), _limits())
        atexit.register(_end, _server)
    return _server


def _end(server: _Server) -> None:
    if server.pid == os.getpid():
        server.requests.close()
        server.process.wait()


def can_fork() -> bool:
    """Return whether a forked command is like one that is started now."""
    return _started().of_start == _of_start()


@contextlib.contextmanager
def _begun(
    arguments: Sequence[str | bytes | Path],
    directory: Path,
    environment: dict[str, str],
    streams: tuple[int, int, int],
    *,
    stopped: bool,
) -> Iterator[tuple[int, int]]:
    """Yield the process ID of a new command, and the pipe that gets its exit code."""
    server = _started()
    (umask := os.umask(0), os.umask(umask))
    limits = {number: own for number, own in _limits().items() if server.limits[number] != own}
    request = {
        "arguments": [os.fsdecode(argument) for argument in arguments],
        "directory": os.fsdecode(directory),
        "environment": environment,
        "umask": umask,
        "processors": sorted(os.sched_getaffinity(0)),
        "limits": limits,
        "stopped": stopped,
    }
    answer, written = os.pipe()
    try:
        try:
            message = json.dumps(request).encode("ascii")
            socket.send_fds(server.requests, [message], [*streams, written])
        finally:
            os.close(written)
        yield int(_line(answer)), answer
    finally:
        os.close(answer)


def _line(fd: int) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(fd, 1)
        assert piece, "the process that forks commands has ended"
        data += piece
    return data


def run(
    arguments: Sequence[str | bytes | Path], directory: Path, given: bytes | None, timeout_s: float
) -> tuple[int, bytes, bytes]:
    """Run a command, and return its exit code, output and errors, like `subprocess.run`.

    `given` is its standard input, which otherwise is that of this process.
    """
    with contextlib.ExitStack() as stack:
        (output, output_end), (errors, errors_end) = _pipe(stack), _pipe(stack)
        input_end, feed = (None, None) if given is None else _pipe(stack)
        streams = (input_end.fileno() if input_end else 0, output_end.fileno(), errors_end.fileno())
        begun = _begun(arguments, directory, dict(os.environ), streams, stopped=False)
        pid, answer = stack.enter_context(begun)
        for end in (output_end, errors_end, input_end):
            if end is not None:
                end.close()
        try:
            data = _communicate(output, errors, feed, given or b"", timeout_s)
            return int(_line(answer)), *data
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise


def _pipe(stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    read, write = os.pipe()
    return stack.enter_context(FileIO(read)), stack.enter_context(FileIO(write, "w"))


def _communicate(
    output: FileIO, errors: FileIO, feed: FileIO | None, given: bytes, timeout_s: float
) -> tuple[bytes, bytes]:
    """Write all input and read all output, as far as the command takes and gives them."""
    deadline = time.monotonic() + timeout_s
    pieces: dict[FileIO, list[bytes]] = {output: [], errors: []}
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        selector.register(errors, selectors.EVENT_READ)
        if feed is not None:
            selector.register(feed, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(deadline - time.monotonic())
            assert ready, f"no end within {timeout_s} s"
            for key, _ in ready:
                file = key.fileobj
                assert isinstance(file, FileIO)
                if file is feed:
                    try:
                        given = given[os.write(key.fd, given[:_PIPE_BYTES]) :] if given else given
                    except BrokenPipeError:
                        given = b""
                    ended = not given
                else:
                    piece = os.read(key.fd, 1 << 16)
                    pieces[file].append(piece)
                    ended = not piece
                if ended:
                    selector.unregister(file)
                    file.close()
    return b"".join(pieces[output]), b"".join(pieces[errors])


@contextlib.contextmanager
def stopped(
    arguments: Sequence[str | bytes | Path],
    directory: Path,
    environment: dict[str, str],
    output: IO[Any],
    errors: IO[Any],
) -> Iterator[Stopped]:
    """Yield a command that has stopped itself before its first step; SIGCONT lets it go on."""
    with open(os.devnull) as nothing:
        streams = (nothing.fileno(), output.fileno(), errors.fileno())
        with _begun(arguments, directory, environment, streams, stopped=True) as (pid, answer):
            yield Stopped(pid, answer)


@dataclass(frozen=True, slots=True)
class Stopped:
    """A command that waits for SIGCONT."""

    pid: int
    _answer: int

    def go_on(self) -> None:
        """Let it begin."""
        os.kill(self.pid, signal.SIGCONT)

    def go_on_traced(self, *options: str) -> int:
        """Let it begin under strace(1) with these options, and return its exit code."""
        strace = ["strace", "-f", *options, "-p", str(self.pid)]
        with subprocess.Popen(strace, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert "attached" in line, line
            self.go_on()
            code = self.wait()
            process.communicate()
        return code

    def wait(self) -> int:
        """Wait for its end, and return its exit code; negative, that of a signal."""
        return int(_line(self._answer))
