"""A clock that jumps between two commands, back or far ahead, loses nothing in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cas.disk.boot import boot_id
from cas.store import Store
from tests.helpers.running import waiting_run
from tests.helpers.support import Cas, make, snapshot, sound

DAY = 86400
YEAR = 365 * DAY
SHIFTS = [-DAY, YEAR]
PAIRS = [(0, -DAY), (0, YEAR), (YEAR, 0), (YEAR, -DAY), (-DAY, YEAR)]
"""Errors of the clock: the first, and a later one."""

# The command, in a process whose clock is wrong. The kernel's, which files have, is right: so
# both orders occur, a record that is older than its files and one that is newer.
_SHIFTED = """
import sys, time
shift = int(sys.argv.pop(1))
time_ns, seconds = time.time_ns, time.time
time.time_ns = lambda: time_ns() + shift * 10**9
time.time = lambda: seconds() + shift
from cli.main import main
main()
"""
_COLLECT = ["gc", "--max-age", "0d", "--grace", "0d"]


@dataclass(frozen=True, slots=True)
class Clock:
    """Runs the command with a clock that is so many seconds ahead."""

    cas: Cas

    def __call__(self, shift: int, *arguments: str | Path, code: int = 0) -> str:
        """Run it; its exit code has to be `code`."""
        command = [sys.executable, "-c", _SHIFTED, str(shift), "--store", str(self.cas.store)]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.cas.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def json(self, shift: int, *arguments: str) -> Any:
        """Run the command with --json; return its document."""
        command, *rest = arguments
        return json.loads(self(shift, command, "--json", *rest))


@pytest.fixture
def clock(cas: Cas, work: Path) -> Clock:
    """The command with another clock; there is a tree at `tree`."""
    make(work / "tree", {"usr/x": "x", "tool*": "t"})
    return Clock(cas)


def test_shifted_clock_is_in_effect(clock: Clock) -> None:
    clock(365 * DAY, "put", "a:t:12345678", "tree")
    clock(-DAY, "put", "b:t:12345678", "tree")

    a, b = (one["stored_ns"] for one in clock.json(0, "ls"))
    assert abs((a - b) / 10**9 - 366 * DAY) < 300


@pytest.mark.parametrize(("then", "now"), PAIRS)
def test_pinned_and_mounted_artifacts_survive_any_clock(
    clock: Clock, work: Path, then: int, now: int
) -> None:
    for name in ("mounted", "pinned"):
        make(work / name, {name: name})
        clock(then, "put", f"{name}:t:12345678", name)
    clock(then, "mount", "target", "mounted", "--strategy", "copy")
    clock(then, "pin", "pinned")

    clock(now, *_COLLECT)
    clock(then, *_COLLECT, "--max-size", "1")

    assert {one["recipe"] for one in clock.json(now, "ls")} == {"mounted", "pinned"}
    assert snapshot(work / "target") == snapshot(work / "mounted")
    assert clock(now, "verify") == "no faults found\n"
    clock(now, "mounts")
    clock(now, "umount", "target")


@pytest.mark.parametrize("shift", SHIFTS)
def test_lease_from_another_time_holds(clock: Clock, work: Path, shift: int) -> None:
    clock(0, "put", "a:t:12345678", "tree")
    shifted = (sys.executable, "-c", _SHIFTED, str(shift))
    with waiting_run(clock.cas, "--sysroot", "s=a", then="cat s/usr/x", program=shifted) as task:
        for other in (0, -shift, shift):
            clock(other, *_COLLECT)
            clock(other, "rm", "a", code=7)
        assert task.communicate("\n")[0] == "x"
    clock(0, "rm", "a")


@pytest.mark.parametrize(("then", "now"), PAIRS)
def test_fresh_artifact_keeps_its_grace_time_if_the_clock_goes_back(
    clock: Clock, then: int, now: int
) -> None:
    clock(then, "put", "a:t:12345678", "tree")

    clock(now, "gc", "--max-age", "0d")

    # Ahead, an hour seems to have passed, so it is removed completely.
    stays = now <= max(then, 0)
    assert len(clock.json(0, "ls")) == stays
    assert clock(now, "verify") == "no faults found\n"
    if stays:
        assert clock(0, "run", "--sysroot", "s=a", "--", "cat", "s/usr/x") == "x"


# A put that waits, when its contents are there, until it may go on.
_WAITING_PUT = _SHIFTED.replace(
    "from cli.main import main",
    """
from cli.main import main
import cas.put.put
record = cas.put.put._Put._record
def waiting(*arguments, **options):
    print("ready", flush=True)
    sys.stdin.readline()
    return record(*arguments, **options)
cas.put.put._Put._record = waiting
""",
)


@pytest.mark.parametrize(("then", "now"), PAIRS)
def test_running_put_keeps_its_contents_from_gc_at_another_time(
    clock: Clock, work: Path, then: int, now: int
) -> None:
    clock(0, "put", "other:t:12345678", make(work / "other", {"o": "o"}))
    command = [sys.executable, "-c", _WAITING_PUT, str(then), "--store", str(clock.cas.store)]
    with subprocess.Popen(
        [*command, "put", "a:t:12345678", "tree"],
        cwd=work,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as put:
        assert put.stdout is not None
        assert put.stdout.readline() == "ready\n"
        clock(now, "gc")
        assert "stored" in put.communicate("\n")[0]
    assert put.returncode == 0

    assert clock(0, "run", "--sysroot", "s=a", "--", "cat", "s/usr/x", "s/tool") == "xt"
    assert clock(0, "verify") == "no faults found\n"


@pytest.mark.parametrize("since", [0, 1 << 62])
def test_impossible_boot_time_only_costs_a_recheck(clock: Clock, work: Path, since: int) -> None:
    clock(0, "put", "a:t:12345678", "tree")
    (clock.cas.store / "boot").write_text(json.dumps([boot_id(), since]))

    clock(0, "put", "b:t:12345678", "tree")

    sound(clock.cas.store)


@pytest.mark.parametrize("shift", SHIFTS)
def test_contents_from_another_time_are_served(clock: Clock, work: Path, shift: int) -> None:
    clock(0, "put", "a:t:12345678", "tree")
    with Store(clock.cas.store) as store:
        made = os.lstat(work / "tree").st_mtime + shift
    for path in (clock.cas.store / "artifacts").glob("*/*"):
        os.utime(path, (made, made), follow_symlinks=False)

    clock(shift, "put", "b:t:12345678", "tree")
    clock(-shift, "gc")

    assert len(clock.json(0, "ls")) == 2
    assert clock(0, "run", "--sysroot", "s=b", "--", "cat", "s/usr/x") == "x"
    assert store.path == os.fsencode(clock.cas.store)
    sound(clock.cas.store)
