"""Error messages and exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys

import click

from cas.errors import CasError, ExitCode, hint_for

_ERROR, _NOTE = 31, 33
"""Terminal colours of prefixes: red and yellow."""
RUN_FAILED = 125
"""`cas run` itself failed, as in env(1), podman-run(1) and others."""


def is_coloured() -> bool:
    """Return whether standard error shows colours, and $NO_COLOR does not forbid them.

    See https://no-color.org: $NO_COLOR counts if it is not empty.
    """
    terminal = os.environ.get("TERM", "dumb") != "dumb" and sys.stderr.isatty()
    return terminal and not os.environ.get("NO_COLOR")


def marked(line: str, *, error: bool = True) -> str:
    """Return a line for standard error; colour its prefix if the terminal shows colours."""
    if not is_coloured():
        return line
    prefix, colon, rest = line.partition(":")
    return f"\033[1;{_ERROR if error else _NOTE}m{prefix}{colon}\033[0m{rest}"


def report(error: CasError | OSError | MemoryError | click.ClickException) -> int:
    """Print an error to standard error; return the exit code of the command."""
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, click.ClickException):
        output = io.StringIO()
        error.show(output)
        for line in output.getvalue().splitlines():
            print(marked(line) if line.startswith("Error:") else line, file=sys.stderr)
        context = getattr(error, "ctx", None)
        run = context is not None and context.info_name == "run"
        return RUN_FAILED if run else ExitCode.USAGE
    if isinstance(error, CasError):
        print(marked(f"cas: {error.message}"), file=sys.stderr)
        if error.hint:
            print(marked(f"hint: {error.hint}", error=False), file=sys.stderr)
        return error.exit_code
    path = isinstance(error.filename, (str, bytes)) and error.filename  # or it is a descriptor
    where = f": {os.fsdecode(path)}" if path else ""
    print(marked(f"cas: {error.strerror or error}{where}"), file=sys.stderr)
    if hint := hint_for(error):
        print(marked(f"hint: {hint}", error=False), file=sys.stderr)
    return ExitCode.FAILURE
