"""How far a command is, shown to a person who waits for it at a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from cas.system.progress import Progress, no_progress
from cli.output.printing import is_quiet
from cli.output.quantities import size_text

DELAY_S = 0.7
"""What is done by then needs no bar."""
PAUSE_S = 0.1
"""How long a bar stays as it is, at least."""
_WIDTH = 24


@contextlib.contextmanager
def progress(label: str, things: str = "") -> Iterator[Progress]:
    """Give, for a `with` block, what shows how far something is, if it lasts.

    `things` is what is counted. Nobody but a person at a terminal sees it, unless with --quiet, and
    nothing of it stays.
    """
    if not sys.stderr.isatty() or is_quiet():
        yield no_progress
        return
    bar = _Bar(label, things)
    try:
        yield bar.show
    finally:
        bar.wipe()


class _Bar:
    """A line of a terminal. It is drawn when there is news, so it costs nothing else."""

    def __init__(self, label: str, things: str) -> None:
        self._label = label
        self._things = things
        self._began = time.monotonic()
        self._next = self._began + DELAY_S
        self._width = 0

    def show(self, done: int, total: int, size: int) -> None:
        """Draw how far it is, if it is time to; be gone at the end, before others write."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PAUSE_S
            self._draw(self._text(done, total, size, now - self._began))
        if total and done >= total:
            self.wipe()

    def wipe(self) -> None:
        """Let nothing of it be seen."""
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
        room = _columns() - 1  # a line that is full would begin another one
        while len(parts) > 1 and len("  ".join(parts)) > room:
            del parts[-1]
        width = min(_WIDTH, room - len("  ".join(parts)) - 4)
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
    with contextlib.suppress(OSError):  # the terminal is gone; what is done goes on
        sys.stderr.write(text)
        sys.stderr.flush()
