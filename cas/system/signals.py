"""Signals of crashes, and blocks that no other signal interrupts."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

CRASH_SIGNALS = (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV)
"""Signals that a corrupt index can raise in LMDB."""
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block signals that end the process until the end of a short `with` block.

    Python raises KeyboardInterrupt at any point: between link(2) and the note of it, say, so that
    the link would never be removed.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
