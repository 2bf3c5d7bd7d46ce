"""Runs the `cas` command from a task."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Any

_RECIPE_VARIABLES = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
"""Variables that recipes set for their own programs, and that would break `cas`."""


class CommandFailed(Exception):
    """The command failed with exit code `code`; `reason` is the first line of its message."""

    def __init__(self, code: int, stderr: str) -> None:
        self.code = code
        message = stderr.strip().removeprefix("cas: ")
        self.reason = message.partition("\n")[0]
        super().__init__(message)


def cas(d: Any, *arguments: str, input: str = "", codes: Sequence[int] = (0,)) -> str:
    """Run a command on the build's store; return its standard output.

    Raises CommandFailed unless its exit code is one of `codes`.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _RECIPE_VARIABLES}
    # Without pseudo(1), which would show the command faked owners of the store's files.
    environment |= {"CAS_STORE": d.getVar("CAS_STORE"), "PSEUDO_UNLOAD": "1"}
    program = d.getVar("CAS_COMMAND")
    try:
        done = subprocess.run(
            [program, *arguments],
            input=input,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise CommandFailed(127, f"{program}: {error.strerror}") from error
    if done.returncode not in codes:
        raise CommandFailed(done.returncode, done.stderr)
    return done.stdout
