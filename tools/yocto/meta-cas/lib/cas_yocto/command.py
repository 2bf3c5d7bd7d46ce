"""The `cas` command, run from a task."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Any

_CONFUSING = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
"""Variables that recipes set for programs of their own."""


class CommandFailed(Exception):
    """The command failed with an exit code; the text is what it said, `reason` its first line."""

    def __init__(self, code: int, said: str) -> None:
        self.code = code
        text = said.strip().removeprefix("cas: ")
        self.reason = text.partition("\n")[0]
        super().__init__(text)


def cas(d: Any, *arguments: str, input: str = "", codes: Sequence[int] = (0,)) -> str:
    """Run a command on the store of the build; return what it printed.

    Raises CommandFailed unless its exit code is one of `codes`.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _CONFUSING}
    # pseudo(1) stays out of it: the files of the store have the owners that they seem to have.
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
