"""Debug messages: shown only if logging is configured, and not even formatted otherwise."""

from __future__ import annotations

import fcntl
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cas.store import Store
from cas.system.debug_log import debug
from cas.system.file_lock import wait_for_lock
from tests.helpers.support import make

_PUT = """
import sys
import cas
with cas.Store("store", create=True) as store:
    store.put("x:t:12345678", "tree")
print("logging" in sys.modules)
"""


class _Unprintable:
    def __str__(self) -> str:
        raise AssertionError("it was formatted")


def test_store_does_not_load_logging(work: Path) -> None:
    make(work / "tree", {"a": "a"})
    command = [sys.executable, "-c", _PUT]

    assert subprocess.check_output(command, cwd=work, text=True) == "False\n"


def test_messages_are_formatted_only_if_they_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cas"):
        debug("hidden: %s", _Unprintable())
    with caplog.at_level(logging.DEBUG, "cas"):
        debug("waiting for %s", "the lock")

    assert caplog.messages == ["waiting for the lock"]


def test_put_is_logged(store: Store, work: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = make(work / "tree", {"a": "a"})
    with caplog.at_level(logging.DEBUG, "cas"):
        store.put("x:t:12345678", tree)

    assert any("x:t:12345678" in message for message in caplog.messages)


def test_lock_is_logged_only_if_it_is_waited_for(
    work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = work / "lock"
    path.touch()
    with (
        caplog.at_level(logging.DEBUG, "cas"),
        path.open() as holder,
        path.open() as waiter,
    ):
        wait_for_lock(holder.fileno(), fcntl.LOCK_EX, str(path))
        assert caplog.messages == []
        thread = threading.Thread(
            target=wait_for_lock, args=(waiter.fileno(), fcntl.LOCK_SH, str(path))
        )
        thread.start()
        while thread.is_alive() and not caplog.messages:
            thread.join(0.01)
        fcntl.flock(holder, fcntl.LOCK_UN)
        thread.join()

    assert caplog.messages == [f"waiting for the lock {path}", f"got the lock {path}"]
