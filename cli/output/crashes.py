"""Error message for crashes: LMDB trusts its file, so flipped bits may crash the process."""

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
    """Let the signals of a crash end the process with a sentence, and `code`, in a `with` block.

    The handler is one of C: those of Python's `signal` wait for the end of the very instruction
    that cannot end. What the process had begun is as after SIGKILL.
    """

    def tell(number: int) -> None:
        name = signal.Signals(number).name
        damaged = StoreDamaged(
            f"{name}, as flipped bits in the index of {quoted(store)} cause it",
            hint="check it with `cas verify`, rebuild it with `cas rebuild-index`",
        )
        report(damaged)
        os._exit(code)

    handler, default = _Handler(tell), _Handler()  # that of null is SIG_DFL
    libc = ctypes.CDLL(None)
    for number in CRASH_SIGNALS:
        libc.signal(number, handler)
    try:
        yield
    finally:
        for number in CRASH_SIGNALS:
            libc.signal(number, default)
