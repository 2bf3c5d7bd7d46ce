"""The progress line of a command on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from cas.system.progress import NO_PROGRESS, Progress
from cli.output.printing import is_quiet
from cli.output.quantities import size_text

DELAY_S = 0.7
"""A command that ends earlier shows no progress line (seconds)."""
PAUSE_S = 0.1
"""The line is redrawn at most this often (seconds)."""
_BAR_WIDTH = 24


@contextlib.contextmanager
def progress(label: str, things: str = "") -> Iterator[Progress]:
    """Yield a progress that shows a line on a terminal until the block ends.

    `things` names the items that are counted, in the plural. Without a terminal on standard error,
    and with --quiet, nothing is shown.
    """
    if not sys.stderr.isatty() or is_quiet():
        yield NO_PROGRESS
        return
    bar = _Bar(label, things)
    try:
        yield bar
    finally:
        bar.wipe()


class _Bar(Progress):
    """A progress line. It is redrawn only when progress is reported, so there is no timer."""

    def __init__(self, label: str, things: str) -> None:
        self._label = label
        self._things = things
        self._began = time.monotonic()
        self._next = self._began + DELAY_S
        self._width = 0

    def update(self, done: int, total: int = 0, size: int = 0) -> None:
        """Redraw the line if it is time to; wipe it when all is done, before others write."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PAUSE_S
            self._draw(self._text(done, total, size, now - self._began))
        if total and done >= total:
            self.wipe()

    def alive(self) -> None:
        """Draw the label alone."""
        self.update(0)

    def wipe(self) -> None:
        """Remove the line from the terminal."""
        if self._width:
            self._draw("")
            _write("\r")

    def _text(self, done: int, total: int, size: int, seconds: float) -> str:
        parts = [self._label]
        if total:
            parts.append(f"{100 * done // total:3}%")
        if self._things and (total or done):
            parts.append(f"{done}/{total} {self._things}" if total else f"{done} {self._things}")
        if size:
            parts.append(size_text(size))
            parts.append(f"{size_text(int(size / max(seconds, 0.001)))}/s")
        room = _columns() - 1  # a full line would wrap
        while len(parts) > 1 and len("  ".join(parts)) > room:
            del parts[-1]
        width = min(_BAR_WIDTH, room - len("  ".join(parts)) - 4)
        if total and width > 0:
            full = width * done // total
            parts.insert(1, f"[{'#' * full}{'-' * (width - full)}]")
        return "  ".join(parts)[:room]

    def _draw(self, text: str) -> None:
        _write("\r" + text.ljust(self._width))
        self._width = len(text)


def _columns() -> int:
    with contextlib.suppress(OSError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return 80


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone; the command continues
        sys.stderr.write(text)
        sys.stderr.flush()
