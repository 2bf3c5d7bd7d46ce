"""Commands that run while a test does something else, and strace(1) around commands."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.helpers.support import CAS, Cas

Process = subprocess.Popen[str]


def start(cas: Cas, *arguments: str | Path, program: Sequence[str] = (CAS,)) -> Process:
    """Start a command with pipes for its input and output, and return its process."""
    return subprocess.Popen(
        [*cas.wrapper, *program, "--store", str(cas.store), *arguments],
        cwd=cas.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def next_line(process: Process) -> str:
    """Wait for the next line of output, and return it without its end."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextlib.contextmanager
def waiting_run(
    cas: Cas, *options: str | Path, then: str = ":", program: Sequence[str] = (CAS,)
) -> Iterator[Process]:
    """Start `cas run OPTIONS`, and yield its process when its command waits for a line of input.

    After that line, which `communicate("\\n")` sends, the command runs the shell script `then`.
    """
    script = f"echo ready; read _; {then}"
    with start(cas, "run", *options, "--", "bash", "-c", script, program=program) as process:
        assert next_line(process) == "ready"
        yield process


def strace(*rules: str, log: Path | str = "/dev/null") -> tuple[str, ...]:
    """Return the words that run a command, and all its children, under strace(1).

    Each rule is the value of an `-e` option, such as `inject=fsopen:error=ENODEV`.
    """
    return ("strace", "-f", "-qq", "-o", str(log), *(w for rule in rules for w in ("-e", rule)))
