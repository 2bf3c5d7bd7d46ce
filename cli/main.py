"""The `cas` command line: its commands, and exit codes for errors."""

from __future__ import annotations

import contextlib
import importlib
import io
import keyword
import os
import signal
import sys
import time
import warnings
from typing import Any, NoReturn

import click

from cas.errors import EXIT_CODE_MEANINGS, CasError, ExitCode
from cas.system.oserrors import adding_path
from cas.system.text import suggestion
from cli.options.common import store_option
from cli.output.errors import RUN_FAILED, marked, report
from cli.output.interruption import Ended, say_interrupted
from cli.output.printing import STANDARD_OUTPUT, detail
from cli.output.quantities import span_text

_SECTIONS = {
    "Store the output of tasks": ("init", "put", "import", "rm"),
    "Inspect artifacts": (
        "has", "ls", "show", "files", "du", "stats", "log", "report", "diff", "which", "export",
    ),
    "Make sysroots": ("run", "mount", "umount", "update", "mounts", "plan"),
    "Share with other machines": ("push", "pull", "remote", "key"),
    "Maintain the store": ("gc", "pin", "unpin", "pins", "verify", "sync", "rebuild-index"),
    "Set up": ("config", "doctor", "completion"),
}  # fmt: skip
"""The commands by purpose, in the order of `cas --help`."""

COMMANDS = [name for names in _SECTIONS.values() for name in names]


class _LazyGroup(click.Group):
    """Imports a command's module when the command is used, which keeps the others' start short."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module_name = f"{name}_" if keyword.iskeyword(name) else name
        module = importlib.import_module(f"cli.commands.{module_name}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command and its arguments; suggest a similar name for an unknown command."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = suggestion(args[0], COMMANDS)
            ctx.fail(f"there is no command {args[0]!r}{f'; {near}' if near else ''}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Parse and run the command; a failure of `cas run` itself exits with RUN_FAILED."""
        began = time.monotonic_ns()
        try:
            return super().invoke(ctx)
        except (CasError, OSError, MemoryError) as error:
            if ctx.invoked_subcommand != "run":
                raise
            report(error)
            ctx.exit(RUN_FAILED)
        finally:
            detail(f"{ctx.invoked_subcommand} took {span_text(time.monotonic_ns() - began)}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, grouped by purpose."""
        width = max(map(len, COMMANDS))
        for title, names in _SECTIONS.items():
            with formatter.section(title):
                commands = [(name, self.get_command(ctx, name)) for name in names]
                rows = [
                    (name.ljust(width), command.get_short_help_str(formatter.width - width - 6))
                    for name, command in commands
                    if command is not None
                ]
                formatter.write_dl(rows)


def _exit_codes() -> str:
    lines = [f"  {code.value}  {EXIT_CODE_MEANINGS[code]}" for code in ExitCode]
    return (
        "\b\nExit codes (`cas run` returns that of its command, or 125 if it fails itself):\n"
        + ("\n".join(lines))
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

    An ID is RECIPE:TASK:HASH or RECIPE:ARCH:TASK:HASH. The ID of a stored artifact can be
    abbreviated while it is unambiguous: zlib, zlib:do_populate_sysroot, zlib:9f2c, 9f2c.

    The store is the directory of --store, else of $CAS_STORE, else $XDG_CACHE_HOME/sysroot-cas,
    else ~/.cache/sysroot-cas.

    On a terminal, errors are coloured unless $NO_COLOR is set, and long commands show progress.
    CAS_LOG=debug prints debug messages, like -vv.
    """


def _end(number: int, _: object) -> None:
    raise Ended(128 + number)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Print the text of a Python warning, without its place in the code."""
    print(marked(f"cas: warning: {message}", error=False), file=sys.stderr)


def main() -> NoReturn:
    """Run the command line and end the process with its exit code.

    SIGTERM and SIGHUP raise an exception, like SIGINT, so that the command can clean up.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup(1) lets one be ignored
            signal.signal(number, _end)
    warnings.showwarning = _warn
    warnings.simplefilter("always", UserWarning)  # $PYTHONWARNINGS cannot make it an error
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters outside the locale
    try:
        code = cas.main(prog_name="cas", standalone_mode=False)
        if sys.stdout is not None:  # None if the caller has closed it
            with adding_path(STANDARD_OUTPUT):
                sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt, Ended) as end:
        say_interrupted(end)
        code = end.code if isinstance(end, Ended) else 130
    except SystemExit as end:  # raised by click after it has printed completions
        code = end.code
    except BrokenPipeError:
        code = ExitCode.FAILURE
    except (CasError, OSError, MemoryError, click.ClickException) as error:
        code = report(error)
    _leave(code if isinstance(code, int) else 0)


def _leave(code: int) -> NoReturn:
    """Flush the output and end the process.

    Shutting the interpreter down would take a tenth of a short command's time.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()
    os._exit(code)
