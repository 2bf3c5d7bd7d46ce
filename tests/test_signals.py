"""Signals in single system calls: they end a command, which leaves nothing damaged or half made."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actions import ACTIONS, Bench
from tests.injection import Outcome, Prepared
from tests.support import CAS, ROOT, Cas

_CALLS = (
    "linkat", "link", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "unlink",
    "unlinkat", "symlinkat", "fchmod", "utimensat", "pwrite64", "pwritev", "fdatasync", "flock",
    "write", "openat", "getdents64", "fsmount", "move_mount", "umount2", "unshare", "clone",
    "vfork", "wait4", "poll",
)  # fmt: skip


@pytest.fixture
def run(cas: Cas, tmp_path: Path) -> Iterator[Prepared]:
    with Prepared(cas, tmp_path) as prepared:
        yield prepared


def _check_ended(done: Outcome, number: signal.Signals) -> None:
    """Assert that the command ended by the signal, without a word; or had done all its work."""
    assert "Traceback" not in done.errors, done
    assert "Exception ignored" not in done.errors, done
    assert "cas: " not in done.errors, done
    assert done.code in (0, 128 + number, -number), done


_ACTIONS = [name for name in ACTIONS if ROOT or "overlay" not in name]
_CASES = [
    *((name, signal.SIGINT) for name in _ACTIONS),
    *((name, signal.SIGTERM) for name in ("put --move", "update by hardlink", "run")),
]


@pytest.mark.parametrize(("name", "number"), _CASES)
def test_signal_in_any_call_ends_a_command_and_damages_nothing(
    cas: Cas, run: Prepared, name: str, number: signal.Signals
) -> None:
    ended = 0
    for done in Bench(cas, run).meet(ACTIONS[name], _CALLS, f"signal={number.name}"):
        _check_ended(done, number)
        ended += bool(done.met and done.code)
    assert ended > 0


def test_interrupt_while_a_command_is_imported_ends_it_without_a_word(work: Path) -> None:
    (work / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    variables = os.environ | {"PYTHONPATH": str(work)}

    done = subprocess.run([CAS, "--version"], env=variables, capture_output=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
