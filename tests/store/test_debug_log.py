"""Debug messages: shown only if logging is configured, and not even formatted otherwise."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from cas.store import Store
from cas.system.debug_log import debug
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
