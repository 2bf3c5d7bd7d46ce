"""Ways in which a command that shares out its work can end before it is done."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.support import CAS, Cas

Command = subprocess.Popen[bytes]
End = Callable[[Command, list[int]], None]


def end_after(cas: Cas, end: End, delay: float, *arguments: str) -> int:
    """Run a command, and end it so many seconds after it began to share out its work.

    Returns its exit code, which is that of a command that was ended if it was in time.
    """
    command = [*cas.wrapper, CAS, "--store", str(cas.store), *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, process_group=0) as process:
        children = _children_of(process)
        time.sleep(delay)
        end(process, children)
        errors = process.communicate()[1]
    assert process.returncode in (0, 1, 130, -signal.SIGINT), errors
    assert b"Traceback" not in errors
    return process.returncode


def _children_of(command: Command) -> list[int]:
    """Wait until a command has let others take a part, or has ended."""
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
    while command.poll() is None:
        found = [int(pid) for pid in children.read_text().split()]
        if found:
            return found
    return []


def kill_a_child(_: Command, children: list[int]) -> None:
    for child in children[:1]:  # none if the command was faster
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def interrupt(command: Command, _: list[int]) -> None:
    os.killpg(command.pid, signal.SIGINT)
