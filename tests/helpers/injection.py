"""Faults that strace(1) puts into single system calls of a command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tests.helpers.support import Cas

_PROJECT = Path(__file__).parents[2]
_CALL = re.compile(r"(\d+) +(\w+)\(")
_NUMBERS = re.compile(
    r"(?<=/objects/)..|(?<=\")[0-9a-f]{2}(?=\")|0x[0-9a-f]+|[0-9a-f]{12,}|\d+| = .*"
)
_NOISE = re.compile(r"\(INJECTED\)|--- SIG(INT|TERM) \{si_signo=SIG(INT|TERM), si_code=SI_KERNEL")


def _trace(names: Iterable[str]) -> str:
    return "trace=" + ",".join(f"?{name}" for name in names)  # not every machine has each call


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a command, and the lines of strace for the calls that failed."""

    code: int
    output: str
    errors: str
    met: tuple[str, ...] = ()


class Prepared:
    """The `cas` command on a store, forked from a process that has it loaded (prepared.py).

    It takes 20 ms, 40 with a fault; and a fault is the command's, not one of the interpreter.
    """

    def __init__(self, cas: Cas, place: Path) -> None:
        self._cas = cas
        self._out, self._err, self._log = (place / name for name in ("out", "err", "log"))
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.prepared"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_PROJECT,
            env=os.environ | {"LC_ALL": "C.UTF-8", "TMPDIR": str(place)},
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

    def calls(self, *arguments: str, names: Iterable[str]) -> list[tuple[str, int]]:
        """Run it; return its system calls of these names, and those of its children.

        Each is a name, and a number among the calls of that name in its process. Of calls that
        differ by numbers, digests and results only, the first is returned.
        """
        _, log = self._traced(arguments, ["-e", _trace(names)])
        counts: Counter[tuple[str, str]] = Counter()
        found: dict[str, tuple[str, int]] = {}
        for line in log:
            if called := _CALL.match(line):
                pid, name = called.groups()
                counts[pid, name] += 1
                found.setdefault(_NUMBERS.sub("", line), (name, counts[pid, name]))
        return sorted(set(found.values()))

    def with_fault(self, *arguments: str, call: str, number: int, fault: str) -> Outcome:
        """Run it with a fault in its `number`th system call of a name, and in its children's."""
        inject = f"inject={call}:{fault}:when={number}"
        done, log = self._traced(arguments, ["-e", _trace([call]), "-e", inject])
        met = []
        for before, line in zip(["", *log], log, strict=False):
            if "(INJECTED)" in line:
                met.append(line)
            elif _NOISE.search(line):
                met.append(before)
        return replace(done, met=tuple(met))

    def _traced(self, arguments: tuple[str, ...], options: list[str]) -> tuple[Outcome, list[str]]:
        pid = self._begun(arguments)
        command = ["strace", "-f", "-y", "-o", str(self._log), *options, "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            line = strace.stderr.readline()
            assert "attached" in line, line
            os.kill(pid, signal.SIGCONT)
            done = self._outcome()
            strace.communicate()
        return done, self._log.read_text(errors="replace").splitlines()

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
