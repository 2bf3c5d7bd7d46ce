"""Debug messages on standard error, for `-vv` and `CAS_LOG=debug`."""

from __future__ import annotations

import os

import click

from cas.errors import CasError, ExitCode
from cas.system.text import quoted

DEBUG_LEVEL = 2
"""The number of `-v` from which debug messages are shown."""


class BadLogLevel(CasError):
    """The environment variable CAS_LOG has an unknown value."""

    exit_code = ExitCode.USAGE


def show_debug_messages_if_asked(ctx: click.Context, verbosity: int) -> None:
    """Show debug messages for two or more `-v`, or if CAS_LOG is `debug`.

    Raises BadLogLevel for an unknown value of CAS_LOG.
    """
    level = os.environ.get("CAS_LOG", "")
    if level not in ("", "debug"):
        hint = "set it to debug, or unset it"
        raise BadLogLevel(f"CAS_LOG has the unknown value {quoted(level)}", hint=hint)
    if level or verbosity >= DEBUG_LEVEL:
        _show_debug_messages(ctx)


def _show_debug_messages(ctx: click.Context) -> None:
    """Print debug messages to standard error until the command ends.

    Each is one line, with the milliseconds since logging was imported. Forked workers inherit this.
    """
    import logging  # takes several milliseconds, and few commands need it

    logger = logging.getLogger("cas")
    if logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("cas: %(relativeCreated)6.0f ms  %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    ctx.find_root().call_on_close(lambda: logger.removeHandler(handler))
