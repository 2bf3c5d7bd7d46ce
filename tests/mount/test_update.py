"""`cas update`: a sysroot is exchanged while it is in use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cas.disk import mount_records
from cas.errors import InUse
from cas.store import Store
from mounter import Plan, Strategy, updating
from tests.helpers.sampling import fault_numbers
from tests.helpers.support import CAS, ROOT, Cas, killed, make, mount_lines, snapshot

pytestmark = pytest.mark.per_user

STRATEGIES = ["hardlink", "copy", *(["overlay"] if ROOT else [])]

_GAP = re.compile(r"it was empty for [0-9]+\.[0-9]{3} ms \(.+\)")

# Opens a file in a loop while another one exists; prints failures and contents.
_LOOP = """
import os, sys
seen, failed, opened = set(), set(), 0
print("ready", flush=True)
while not os.path.exists(sys.argv[2]):
    try:
        with open(sys.argv[1]) as file:
            seen.add(file.read())
        opened += 1
    except OSError as error:
        failed.add(str(error))
print(sorted(seen), sorted(failed), opened > 0)
"""


@pytest.fixture
def trees(cas: Cas, work: Path) -> None:
    cas("put", "old:t:12345678", make(work / "old", {"usr/x": "old", "usr/only-old": ""}))
    cas("put", "new:t:12345678", make(work / "new", {"usr/x": "new", "usr/only-new": ""}))
    cas("put", "more:t:12345678", make(work / "more", {"more": "more"}))


def _ids(cas: Cas) -> list[str]:
    (seen,) = cas.json("mounts")
    return [name.replace(":t:12345678", "") for name in seen["ids"]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reader_during_an_update_sees_the_old_or_the_new(
    cas: Cas, work: Path, trees: None, strategy: str
) -> None:
    cas("mount", "target", "old", "--strategy", strategy)
    held = (work / "target/usr/x").open()
    command = [sys.executable, "-c", _LOOP, f"{work}/target/usr/x", f"{work}/stop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as loop:
        assert loop.stdout is not None
        assert loop.stdout.readline() == "ready\n"
        for number in range(10):
            done = cas.json("update", "target", "new" if number % 2 == 0 else "old")
            assert (done["strategy"], done["gap_ns"], done["why_gap"]) == (strategy, 0, None)
        (work / "stop").touch()
        assert loop.stdout.read() == "['new', 'old'] [] True\n"

    assert held.read() == "old"
    held.close()
    assert snapshot(work / "target") == snapshot(work / "old")
    assert [name for name in os.listdir(work) if name.startswith(".target")] == []
    cas("umount", "target")
    assert not (work / "target").exists()
    assert os.listdir(cas.store / "tmp") == os.listdir(cas.store / "mounts") == []


@pytest.mark.parametrize("strategy", ["hardlink", "copy"])
def test_file_added_during_an_update_is_kept(
    cas: Cas, work: Path, trees: None, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cas("mount", "target", "old", "--strategy", strategy)
    swap = updating.swap_or_rename

    def swap_late(*arguments: Any) -> tuple[int, str | None]:
        os.chmod(work / "target/usr", 0o755)
        (work / "target/usr/precious").write_text("precious")
        return swap(*arguments)

    monkeypatch.setattr(updating, "swap_or_rename", swap_late)
    with Store(cas.store) as store, store.compose(["new"]) as composition:
        plan = Plan.of(composition, os.fsencode(work / "target"))
        record = mount_records.read_record(store.path, plan.target)
        assert record is not None
        with pytest.raises(InUse, match=r"the sysroot is updated, but .* usr/precious"):
            updating.swap_tree(plan.by(Strategy(strategy)), record)
    assert snapshot(work / "target") == snapshot(work / "new")
    (old,) = work.glob(".target.cas-*")
    assert (old / "usr/precious").read_text() == "precious"
    cas("umount", "target")
    assert (old / "usr/precious").exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_update_adds_and_drops_artifacts(cas: Cas, work: Path, trees: None, strategy: str) -> None:
    cas("mount", "target", "old@3", "more", "--strategy", strategy)

    cas("update", "target", "--add", "new@2", "--drop", "more")
    assert _ids(cas) == ["new@2", "old@3"]
    assert (work / "target/usr/x").read_text() == "old"
    assert not (work / "target/more").exists()
    cas("update", "target", "--drop", "old")
    assert _ids(cas) == ["new@2"]
    assert (work / "target/usr/x").read_text() == "new"
    cas("update", "target", "more", "--add", "old")
    assert _ids(cas) == ["more", "old"]
    cas("rm", "new")  # it is unused now
    assert "in use" in cas("rm", "old", code=7).stderr
    cas("update", "target", "--drop", "old", "--drop", "more")
    assert os.listdir(work / "target") == []
    cas("umount", "target")


def test_added_id_moves_to_the_top_whatever_its_priority(cas: Cas, work: Path, trees: None) -> None:
    cas("mount", "target", "old@3", "new@3", "more")

    assert (work / "target/usr/x").read_text() == "new"
    cas("update", "target", "--add", "old@3")
    assert _ids(cas) == ["more", "new@3", "old@3"]
    assert (work / "target/usr/x").read_text() == "old"
    cas("update", "target", "--add", "new:t:1234@7")
    assert _ids(cas) == ["more", "old@3", "new@7"]
    cas("update", "target", "--drop", "old@3", "--drop", "new@1", "--add", "more")
    assert _ids(cas) == ["more"]
    cas("umount", "target")


def test_update_of_a_writable_sysroot_is_refused_first(cas: Cas, work: Path, trees: None) -> None:
    cas("mount", "target", "old", "--rw")

    for words in (["--add", "new"], ["old", "new"]):
        refused = cas("update", "target", *words, code=8).stderr
        assert "is writable" in refused
        assert "conflict" not in refused
    cas("umount", "target")


def test_unfit_update_is_refused_and_changes_nothing(cas: Cas, work: Path, trees: None) -> None:
    assert "is mounted at" in cas("update", "target", "old", code=1).stderr
    cas("mount", "target", "old", "--strategy", "hardlink")
    before = snapshot(work / "target")

    assert "nothing" in cas("update", "target", "nothing", code=3).stderr
    assert "new" in cas("update", "target", "--drop", "new", code=3).stderr
    cas("update", "target", code=2)
    cas("update", "target", "new", "--drop", "old", code=2)
    cas("update", "target", "--add", "new", "--conflicts", "error", code=4)
    (work / "target/usr").chmod(0o755)
    (work / "target/usr/mine").write_text("mine")
    assert "usr/mine" in cas("update", "target", "new", code=7).stderr
    (work / "target/usr/mine").unlink()

    assert snapshot(work / "target") == before
    cas("umount", "target")
    cas("mount", "target", "old", "--rw")
    assert "writable" in cas("update", "target", "new", code=8).stderr
    cas("umount", "target")


def test_overlay_is_exchanged_in_a_user_namespace(cas: Cas, work: Path, trees: None) -> None:
    script = f"""
        cas() {{ {CAS} --store store "$@"; }}
        cas mount target old
        {sys.executable} -u -c "$LOOP" target/usr/x stop > loop &
        until grep -q ready loop; do :; done
        for n in 1 2 3 4 5; do cas update target new; cas update target old; done > told
        touch stop; wait
        cas update target new; cp -a target seen; cas umount target; test ! -e target
    """
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc", script],
        cwd=work,
        env=os.environ | {"LOOP": _LOOP},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (work / "told").read_text() == f"{work}/target: overlay\n" * 10
    assert (work / "loop").read_text().splitlines()[-1].endswith("] [] True")
    assert snapshot(work / "seen") == snapshot(work / "new")


def _injected(cas: Cas, fault: str, *arguments: str) -> str:
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={fault}", CAS]
    command += ["--store", str(cas.store), *arguments]
    done = subprocess.run(command, cwd=cas.directory, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
@pytest.mark.parametrize("fault", ["move_mount:error=EINVAL:when=1", "fsconfig:error=EINVAL"])
def test_gap_is_reported_if_the_kernel_cannot_exchange_mounts(
    cas: Cas, work: Path, trees: None, fault: str
) -> None:
    cas("mount", "target", "old", "--strategy", "overlay")

    told = _injected(cas, fault, "update", "target", "new")

    assert _GAP.search(told)
    assert snapshot(work / "target") == snapshot(work / "new")
    cas("umount", "target")
    assert str(work) not in mount_lines()


def test_gap_is_reported_if_names_cannot_be_swapped(cas: Cas, work: Path, trees: None) -> None:
    cas("mount", "target", "old", "--strategy", "copy")

    told = _injected(cas, "renameat2:error=EINVAL", "update", "target", "new")

    assert _GAP.search(told)
    assert "cannot swap two names" in told
    assert snapshot(work / "target") == snapshot(work / "new")
    cas("umount", "target")
    assert not (work / "target").exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "call", ["rename,renameat,renameat2", "move_mount,umount2", "unlink,unlinkat"]
)
def test_update_killed_at_any_step_leaves_the_old_or_the_new(
    cas: Cas, work: Path, trees: None, strategy: str, call: str
) -> None:
    hits = 0
    for number in fault_numbers():
        cas("mount", "target", "old", "--strategy", strategy)
        was_killed = killed(cas, "update", "target", "new", call=call, number=number)
        assert (work / "target/usr/x").read_text() in ("old", "new")
        if not was_killed:
            cas("umount", "target")
            break
        hits += 1
        cas("umount", "target")
        assert not (work / "target").exists()
        assert str(work) not in mount_lines()
        assert [name for name in os.listdir(work) if name.startswith(".target")] == []
    assert hits > 0 or (strategy == "overlay") is (call == "unlink,unlinkat")
