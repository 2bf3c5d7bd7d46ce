"""Faults that strace(1) puts into single system calls of a command."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.helpers.support import CAS, Cas
from tests.helpers.warm import Stopped, stopped

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
    """The `cas` command on a store, forked from a process that has it loaded (warm.py).

    It takes 20 ms, 40 with a fault; and a fault is the command's, not one of the interpreter.
    """

    def __init__(self, cas: Cas, place: Path) -> None:
        self._cas = cas
        self._out, self._err, self._log = (place / name for name in ("out", "err", "log"))
        self._environment = os.environ | {"TMPDIR": str(place)}

    def __call__(self, *arguments: str, code: int | tuple[int, ...] = 0) -> Outcome:
        """Run it; its exit code has to be `code`, and no traceback may show."""
        with self._stopped(arguments) as command:
            command.go_on()
            code_found = command.wait()
        done = self._outcome(code_found)
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
        with self._stopped(arguments) as command:
            code = command.go_on_traced("-y", "-o", str(self._log), *options)
        done = self._outcome(code)
        return done, self._log.read_text(errors="replace").splitlines()

    @contextmanager
    def _stopped(self, arguments: tuple[str, ...]) -> Iterator[Stopped]:
        """Yield a command that is stopped before its first step."""
        command = [CAS, "--store", str(self._cas.store), *arguments]
        with (
            self._out.open("w") as out,
            self._err.open("w") as err,
            stopped(command, self._cas.directory, self._environment, out, err) as process,
        ):
            yield process

    def _outcome(self, code: int) -> Outcome:
        return Outcome(code, self._out.read_text(), self._err.read_text(errors="replace"))
