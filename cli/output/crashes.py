"""Error message for crashes. LMDB trusts its file, so flipped bits may crash the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator

from cas.errors import ExitCode, StoreDamaged
from cas.system.signals import CRASH_SIGNALS
from cas.system.text import quoted
from cli.output.errors import report

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)


@contextlib.contextmanager
def crashes_reported(store: str, code: int = ExitCode.DAMAGED) -> Iterator[None]:
    """Turn the signals of a crash in the block into an error message and the exit `code`.

    The handler is a C function: handlers of Python's `signal` wait for the end of the current
    instruction, which crashes again. As after SIGKILL, nothing is cleaned up.
    """

    def report_crash(number: int) -> None:
        name = signal.Signals(number).name
        damaged = StoreDamaged(
            f"{name}: the index of {quoted(store)} is probably damaged",
            hint="check it with `cas verify`, and rebuild it with `cas rebuild-index`",
        )
        report(damaged)
        os._exit(code)

    handler, default = _Handler(report_crash), _Handler()  # null is SIG_DFL
    libc = ctypes.CDLL(None)
    for number in CRASH_SIGNALS:
        libc.signal(number, handler)
    try:
        yield
    finally:
        for number in CRASH_SIGNALS:
            libc.signal(number, default)
