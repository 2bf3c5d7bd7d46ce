"""How an error ends a command: a sentence for a person, and an exit code."""

from __future__ import annotations

import errno
import os
import sys

import click

from cas.errors import CasError, ExitCode, hint_for

RUN_FAILED = 125
"""`cas run` itself failed, as in env(1), podman-run(1) and others."""


def report(error: CasError | OSError | MemoryError | click.ClickException) -> int:
    """Print an error to standard error; return the exit code of the command."""
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, click.ClickException):
        error.show()
        context = getattr(error, "ctx", None)
        run = context is not None and context.info_name == "run"
        return RUN_FAILED if run else ExitCode.USAGE
    if isinstance(error, CasError):
        print(f"cas: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    named = isinstance(error.filename, (str, bytes)) and error.filename  # or it is a descriptor
    where = f": {os.fsdecode(named)}" if named else ""
    print(f"cas: {error.strerror or error}{where}", file=sys.stderr)
    if hint := hint_for(error):
        print(f"hint: {hint}", file=sys.stderr)
    return ExitCode.FAILURE
