"""A process that has loaded all of `cas`, and forks for each requested command.

A command then takes a tenth of the processor time, since no interpreter starts. A fault that is
injected by number hits the work of the command, not the start of the interpreter.

The requests are of `tests/helpers/warm.py`: one message each, with four file descriptors: standard
input, output and error of the command, and a pipe for two lines: its process ID, and its exit code.
"""

from __future__ import annotations

import concurrent.futures.thread
import ctypes
import gc
import hashlib
import importlib
import io
import json
import os
import pkgutil
import resource
import selectors
import signal
import socket
import sys
from typing import Any, NoReturn

sys.path.pop(0)  # the directory of the caller, which `cas` does not have there

import cas
import cli
import mounter
from cli.start import main

_PR_SET_NAME = 15
_PR_SET_PTRACER = 0x59616D61
_ANYBODY = ctypes.c_ulong(-1)
_MAX_REQUEST_BYTES = 1 << 20
_prctl = ctypes.CDLL(None).prctl

for _package in (cas, mounter, cli):
    for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
        if _module.name != "cas.__main__":
            importlib.import_module(_module.name)
importlib.import_module("lmdb._envid")
hashlib.sha256(concurrent.futures.thread.__name__.encode())


def _stream(number: int, errors: str | None) -> io.TextIOWrapper:
    """Return a standard stream as a new interpreter makes it (Python/pylifecycle.c)."""
    raw = io.FileIO(number, "w" if number else "r", closefd=False)
    buffered = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
    lines = number == 2 or raw.isatty()
    encoding = sys.__stdout__.encoding if sys.__stdout__ else "utf-8"
    return io.TextIOWrapper(buffered, encoding, errors, None, lines)


def _begin(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """Become the process of a command; if that is to be traced, stop before its first step."""
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
    os.closerange(3, 1024)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.umask(request["umask"])
    os.sched_setaffinity(0, request["processors"])
    for number, limits in request["limits"].items():
        resource.setrlimit(int(number), limits)
    os.chdir(request["directory"])
    sys.stdin = _stream(0, sys.stdin.errors)
    sys.stdout = _stream(1, sys.stdout.errors)
    sys.stderr = _stream(2, "backslashreplace")
    sys.argv = request["arguments"]
    _prctl(_PR_SET_NAME, b"cas", 0, 0, 0)
    if request["stopped"]:
        # Yama may allow only the parent to trace a process; this allows everyone.
        _prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
    gc.enable()  # as it is when an interpreter has started
    main()


def _serve(requests: socket.socket) -> None:
    """Fork for each request, and write the exit code of each process that ends."""
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not requests:
                pid, answer = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                selector.unregister(key.fileobj)
                os.close(key.fd)
                os.write(answer, b"%d\n" % code)
                os.close(answer)
                continue
            message, fds, _, _ = socket.recv_fds(requests, _MAX_REQUEST_BYTES, 4)
            if not message:
                return
            request = json.loads(message, object_hook=None)
            pid = os.fork()
            if pid == 0:
                _begin(request, fds)
            if request["stopped"]:
                os.waitpid(pid, os.WUNTRACED)
            os.write(fds[3], b"%d\n" % pid)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, fds[3]))
            for fd in fds[:3]:
                os.close(fd)


if __name__ == "__main__":
    gc.disable()
    gc.collect()
    gc.freeze()  # so that a fork shares the memory of all that is loaded
    _serve(socket.socket(fileno=int(sys.argv[1])))
