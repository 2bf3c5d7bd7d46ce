"""Ways in which a command that shares out its work can end before it is done."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

Command = subprocess.Popen[bytes]
End = Callable[[Command, list[int]], None]


def children_of(command: Command) -> list[int]:
    """Wait until a command has let others take a part, or has ended."""
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
    while command.poll() is None:
        found = [int(pid) for pid in children.read_text().split()]
        if found:
            return found
    return []


def kill_a_child(_: Command, children: list[int]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(children[0], signal.SIGKILL)


def interrupt(command: Command, _: list[int]) -> None:
    os.killpg(command.pid, signal.SIGINT)
