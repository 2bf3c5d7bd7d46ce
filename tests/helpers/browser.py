"""A real browser without a window: Chromium's headless shell, controlled through pipes.

It speaks the Chrome DevTools Protocol: JSON messages that end with a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_SECONDS = 60
"""Timeout of an answer of the browser on a busy machine (seconds)."""


class Browser:
    """A browser with one page. `events` are the events that it has sent."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._to, self._from = to_browser, from_browser
        self._number = 0
        self._session: str | None = None
        self._read = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Let the browser do something; return its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == self._number:
                assert "error" not in got, (method, got)
                result: dict[str, Any] = got["result"]
                return result
            self.events.append(got)

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + _SECONDS
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended"
            self._read += data
        line, _, self._read = self._read.partition(b"\0")
        got: dict[str, Any] = json.loads(line)
        return got

    def seen(self, method: str) -> list[Any]:
        """Return the parameters of all events of one kind."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def open(self, page: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Show a page in a window of a size in CSS pixels; narrow ones are those of phones."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if width < 700 else 1,
            mobile=width < 700,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        while not self.seen("Page.loadEventFired"):
            self.events.append(self._next())

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        got = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write a screenshot of the whole page as PNG, for people who change the page."""
        got = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(got["data"]))


def find_browser() -> str | None:
    """Return the program of a browser, if one is installed."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


@contextlib.contextmanager
def browser(directory: Path) -> Iterator[Browser]:
    """Start a browser that keeps its files in a directory; end it, and all that it has started."""
    program = find_browser()
    assert program is not None, f"none of {', '.join(_PROGRAMS)} is installed"
    (its_in, to_browser), (from_browser, its_out) = os.pipe(), os.pipe()
    # bash gives it the descriptors 3 and 4, which the browser reads and writes. Only pages of
    # ours are shown, so it needs no sandbox, which root and containers cannot have.
    command = [
        "bash", "-c", f'exec "$@" 3<&{its_in} 4>&{its_out}', "bash",
        program, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
        "--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={directory}/browser",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        env=os.environ | {"HOME": str(directory), "TZ": "UTC"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(its_in, its_out),
        start_new_session=True,
    )
    os.close(its_in)
    os.close(its_out)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(to_browser)
        os.close(from_browser)
