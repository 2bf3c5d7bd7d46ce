"""Signals: those of a crash, and steps that none of the others may come between."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV)
"""What flipped bits in an index can end a process with."""
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Keep signals that end a process back until the end of a short `with` block.

    Python turns SIGINT into an exception wherever it comes: a file that has just been linked would
    not be noted by anybody, and so not be taken back.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
