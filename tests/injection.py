"""Faults that strace(1) puts into single system calls of a command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support import Cas

_PROJECT = Path(__file__).parent.parent
_NOISE = re.compile(r"\(INJECTED\)|--- SIG(INT|TERM) \{si_signo=SIG(INT|TERM), si_code=SI_KERNEL")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what strace says of the calls that it met a fault in."""

    code: int
    output: str
    errors: str
    met: tuple[str, ...] = ()


class Prepared:
    """The `cas` command on a store, forked from a process that has it loaded (tests/prepared.py).

    It takes 20 ms, 40 with a fault; and a fault is the command's, not one of the interpreter.
    """

    def __init__(self, cas: Cas, place: Path) -> None:
        self._cas = cas
        self._out, self._err, self._log = (place / name for name in ("out", "err", "log"))
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.prepared"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_PROJECT,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def __call__(self, *arguments: str, code: int | tuple[int, ...] = 0) -> Outcome:
        """Run it; its exit code has to be `code`, and no traceback may show."""
        os.kill(self._begun(arguments), signal.SIGCONT)
        done = self._outcome()
        codes = (code,) if isinstance(code, int) else code
        assert done.code in codes, (arguments, done)
        return done

    def with_fault(
        self, *arguments: str, call: str, fault: str, number: int, follow: bool = False
    ) -> Outcome:
        """Run it with a fault in its `number`th system call of a kind, if it makes so many.

        With `follow`, each of its child processes meets one in that of its own.
        """
        names = ",".join(f"?{name}" for name in call.split(","))
        pid = self._begun(arguments)
        command = ["strace", "-y", *(["-f"] if follow else []), "-o", str(self._log), "-e",
                   f"trace={names}", "-e", f"inject={names}:{fault}:when={number}", "-p",
                   str(pid)]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            line = strace.stderr.readline()
            assert "attached" in line, line
            os.kill(pid, signal.SIGCONT)
            done = self._outcome()
            strace.communicate()
        lines = self._log.read_text(errors="replace").splitlines()
        met = []
        for before, line in zip(["", *lines], lines, strict=False):
            if "(INJECTED)" in line:
                met.append(line)
            elif _NOISE.search(line):
                met.append(before)
        return Outcome(done.code, done.output, done.errors, tuple(met))

    def _begun(self, arguments: tuple[str, ...]) -> int:
        """Begin a command; return the id of its process, which is stopped."""
        request = {
            "arguments": ["--store", str(self._cas.store), *arguments],
            "directory": str(self._cas.directory),
            "output": str(self._out),
            "errors": str(self._err),
        }
        stdin, stdout = self._server.stdin, self._server.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        return int(stdout.readline())

    def _outcome(self) -> Outcome:
        assert self._server.stdout is not None
        code = int(self._server.stdout.readline())
        return Outcome(code, self._out.read_text(), self._err.read_text(errors="replace"))
