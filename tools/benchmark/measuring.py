"""Contenders, measured alternately."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_SAID = 150  # characters of the output of a command that failed

_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


class Failed(Exception):
    """A command of a contender failed; the text is one line."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to do a job: steps in their order, by the names of their columns.

    The value of a step is its time in seconds, or the number that it returns. `before` and `after`
    are not measured; `after` runs even if a step fails.
    """

    name: str
    steps: Mapping[str, Callable[[], float | None]]
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Measured:
    """The values of a contender's steps in each round; `failure` is the reason if it failed."""

    contender: str
    values: dict[str, list[float]] = field(default_factory=dict)
    failure: str = ""

    def median(self, step: str) -> float | None:
        """Return the value of a step; None if it did not run."""
        values = self.values.get(step)
        return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Table:
    """The results of a job. The other contenders are compared with the first one."""

    job: str
    title: str
    file_system: str
    rows: Sequence[Measured]

    def columns(self) -> list[str]:
        """Return the names of the steps in their order."""
        return list(dict.fromkeys(step for row in self.rows for step in row.values))


def measure(
    contenders: Sequence[Contender], rounds: int, clear: Callable[[], None] = lambda: None
) -> list[Measured]:
    """Run the steps of all contenders alternately, `rounds` times.

    `clear` removes the leftovers of a contender that failed.
    """
    results = [Measured(contender.name) for contender in contenders]
    for number in range(rounds):
        for contender, result in zip(contenders, results, strict=True):
            if not result.failure:
                say(f"  {contender.name} ({number + 1} of {rounds})")
                _do(contender, result)
                clear()
    return results


def _do(contender: Contender, result: Measured) -> None:
    try:
        contender.before()
        os.sync()  # so that a contender does not pay for the writes of others
        for name, step in contender.steps.items():
            began = time.perf_counter()
            returned = step()
            took = time.perf_counter() - began
            result.values.setdefault(name, []).append(took if returned is None else returned)
    except Failed as failure:
        result.failure = str(failure)
    finally:
        contender.after()


def command(*argv: str | Path, cwd: Path | None = None, **environment: str) -> None:
    """Run a command to its end. Raises Failed."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise Failed(f"{argv[0]} is not installed") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Failed(said[-1][:_SAID] if said else f"{argv[0]} ended with {done.returncode}")


def peak_memory(*argv: str | Path) -> float:
    """Run a command; return the peak memory of its largest process (MiB).

    It is the child of a small process, since the peak of a process includes that of its parent at
    the fork.
    Raises Failed.
    """
    done = subprocess.run([sys.executable, "-c", _PEAK, *argv], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{argv[0]} ended with {done.returncode}")
    return int(done.stdout.split()[-1]) / 1024


def remove(directory: Path) -> None:
    """Delete a directory tree, if it exists."""
    command("rm", "-rf", directory)


def say(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)
