"""Signals in single system calls: they end a command, which leaves nothing damaged or half made."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cas.disk.mount_records import read_record
from cas.store import Store
from cli.output.interruption import RESUMABLE
from tests.helpers.actions import ACTIONS, NEW, Bench, cases
from tests.helpers.injection import Outcome, Prepared
from tests.helpers.support import CAS, ROOT, Cas

_CALLS = (
    "linkat", "link", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "unlink",
    "unlinkat", "symlinkat", "fchmod", "utimensat", "pwrite64", "pwritev", "fdatasync", "flock",
    "write", "openat", "getdents64", "fsmount", "move_mount", "umount2", "unshare", "clone",
    "vfork", "wait4", "poll",
)  # fmt: skip


@pytest.fixture
def run(cas: Cas, tmp_path: Path) -> Prepared:
    return Prepared(cas, tmp_path)


def _check_ended(done: Outcome, number: signal.Signals, name: str, cas: Cas) -> str:
    """Assert that the signal ended the command, or came after its work; return its message.

    The message is one line, and true.
    """
    assert "Traceback" not in done.errors, done
    assert "Exception ignored" not in done.errors, done
    assert done.code in (0, 128 + number, -number), done
    said = [line for line in done.errors.splitlines() if "cas: " in line]
    if name.startswith("run"):  # the signal was for the command that it runs
        assert said in ([], ["cas: interrupted"]), done
        return ""
    assert len(said) == (done.code == 128 + number), done
    _, _, what = "".join(said).partition("cas: interrupted: ")
    assert what in ("", _truth(cas, name)), done
    return what


def _truth(cas: Cas, name: str) -> str:
    """Return the messages that are true after an interrupted command."""
    target = cas.directory / "target"
    with Store(cas.store) as store:
        found = store.find(NEW)
    command = name.split()[0]
    if command == "put":
        stored = found is not None and found.files == 3
        return f"{NEW} was stored" if stored else "nothing was stored"
    if command == "rm":
        gone = "all named artifacts were removed; `cas gc` frees the rest of their space"
        return "nothing was removed" if found else gone
    if command == "gc":
        return f"{int(found is None)} of 1 artifacts were removed; {RESUMABLE}"
    if command == "mount":
        there = target.is_dir() and os.listdir(target)
        return "target is mounted" if there else "nothing was mounted"
    if command == "update":
        new = (target / "new").exists()
        return f"target has the {'new' if new else 'old'} composition"
    if read_record(os.fsencode(cas.store), os.fsencode(target)):
        return f"{target} was not completely removed; {RESUMABLE}"
    return f"{target} was unmounted"


_ACTIONS = [name for name in ACTIONS if ROOT or "overlay" not in name]
_TERMINATED = ("put --move", "update by hardlink", "run")


@pytest.mark.parametrize("name", cases(_ACTIONS))
def test_interrupt_in_any_call_ends_a_command_and_damages_nothing(
    cas: Cas, run: Prepared, name: str
) -> None:
    _end_in_each_call(cas, run, name, signal.SIGINT)


@pytest.mark.parametrize("name", _TERMINATED)
def test_termination_in_any_call_ends_a_command_and_damages_nothing(
    cas: Cas, run: Prepared, name: str
) -> None:
    _end_in_each_call(cas, run, name, signal.SIGTERM)


def _end_in_each_call(cas: Cas, run: Prepared, name: str, number: signal.Signals) -> None:
    """Do an action once for each of its calls, and let a signal come in that call."""
    ended = 0
    said: set[str] = set()
    for done in Bench(cas, run).meet(ACTIONS[name], _CALLS, f"signal={number.name}"):
        said.add(_check_ended(done, number, name, cas))
        ended += bool(done.met and done.code)
    assert ended > 0
    assert name.startswith("run") or len(said - {""}) > 0


def test_interrupt_during_import_ends_silently(work: Path) -> None:
    (work / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    variables = os.environ | {"PYTHONPATH": str(work)}

    done = subprocess.run([CAS, "--version"], env=variables, capture_output=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
