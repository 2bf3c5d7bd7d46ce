"""The `cas` command line: its commands, and how errors end it."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from typing import NoReturn

import click

from cas.errors import MEANINGS, CasError, ExitCode
from cas.locating import located
from cli.failure import report
from cli.options import STANDARD_OUTPUT, store_option

_COMMANDS = {
    "init": "init",
    "put": "put",
    "import": "exchange",
    "export": "exchange",
    "push": "remote",
    "pull": "remote",
    "remote": "remote",
    "key": "key",
    "has": "show",
    "ls": "show",
    "show": "show",
    "files": "show",
    "which": "compare",
    "diff": "compare",
    "run": "run",
    "mount": "mount",
    "umount": "mount",
    "update": "mount",
    "mounts": "mount",
    "plan": "plan",
    "pin": "pins",
    "unpin": "pins",
    "pins": "pins",
    "rm": "put",
    "gc": "gc",
    "sync": "sync",
    "verify": "verify",
    "rebuild-index": "verify",
    "doctor": "doctor",
}
"""In the order of `cas --help`: each command, and the module of `cli` that has it."""


class _LazyGroup(click.Group):
    """Imports a command's module when the command is used, which keeps the others' start short."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command


def _exit_codes() -> str:
    lines = [f"  {code.value}  {MEANINGS[code]}" for code in ExitCode]
    return "\b\nExit codes (`cas run` has those of its command, and 125 if it fails itself):\n" + (
        "\n".join(lines)
    )


@click.group(
    cls=_LazyGroup,
    epilog=_exit_codes(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@store_option
@click.version_option(package_name="sysroot-cas", prog_name="cas")
def cas() -> None:
    """Store the output of build tasks once, and compose it into sysroots by one mount.

    An ID is RECIPE:TASK:HASH or RECIPE:ARCH:TASK:HASH. Where something stored is named, any
    unambiguous abbreviation does: zlib, zlib:do_populate_sysroot, zlib:9f2c, 9f2c.

    The store is the directory of --store, else of $CAS_STORE, else $XDG_CACHE_HOME/sysroot-cas,
    else ~/.cache/sysroot-cas.
    """


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def main() -> NoReturn:
    """Run the command line and end the process with its exit code.

    SIGTERM and SIGHUP end it like SIGINT, by an exception, and so nothing is left half made.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup(1) lets one be ignored
            signal.signal(number, _end)
    try:
        code = cas.main(prog_name="cas", standalone_mode=False)
        if sys.stdout is not None:  # as it is when a caller has closed it
            with located(STANDARD_OUTPUT):
                sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        code = ExitCode.FAILURE
    except (CasError, OSError, MemoryError, click.ClickException) as error:
        code = report(error)
    _leave(code if isinstance(code, int) else 0)


def _leave(code: int) -> NoReturn:
    """End the process without taking the interpreter apart, which costs a tenth of a command.

    What a command that failed has printed still comes, if somebody reads it.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()
    os._exit(code)
