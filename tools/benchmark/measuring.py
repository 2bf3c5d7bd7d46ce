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

_SAID = 150  # characters of what a command said when it failed

_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


class Failed(Exception):
    """A command of a contender failed; the text says how, in one line."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of doing a job: steps, by the names of the columns they give, done in order.

    What a step takes is its time in seconds; or what it returns, if that is a number. What `before`
    and `after` do is not measured; `after` is done even if a step fails.
    """

    name: str
    steps: Mapping[str, Callable[[], float | None]]
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Measured:
    """What a contender's steps took in each round; `failure` is why there is no more."""

    contender: str
    values: dict[str, list[float]] = field(default_factory=dict)
    failure: str = ""

    def median(self, step: str) -> float | None:
        """Return what a step took, None if it was not done."""
        values = self.values.get(step)
        return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Table:
    """A job's results. The first contender is what the others are compared with."""

    job: str
    title: str
    file_system: str
    rows: Sequence[Measured]

    def columns(self) -> list[str]:
        """Return the names of the steps, as they came."""
        return list(dict.fromkeys(step for row in self.rows for step in row.values))


def measure(
    contenders: Sequence[Contender], rounds: int, clear: Callable[[], None] = lambda: None
) -> list[Measured]:
    """Let all contenders do their steps in turn, and that `rounds` times.

    `clear` takes away what a contender that failed has left.
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
        os.sync()  # what others wrote is not to be paid for by this one
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
    """Run a command to its end; return the most that one of its processes had, in MiB.

    It is the child of a small process: a process counts what its parent had when it was forked.
    Raises Failed.
    """
    done = subprocess.run([sys.executable, "-c", _PEAK, *argv], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{argv[0]} ended with {done.returncode}")
    return int(done.stdout.split()[-1]) / 1024


def remove(directory: Path) -> None:
    """Delete a directory with all that is in it, if it is there."""
    command("rm", "-rf", directory)


def say(text: str) -> None:
    """Tell the user how far this is."""
    print(text, file=sys.stderr, flush=True)
