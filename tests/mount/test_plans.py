"""Plans: shown, kept as data, and carried out where nothing is installed."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cas.errors import InputRefused, StoreDamaged
from cas.model.manifest import Manifest
from mounter import Plan, hold
from tests.helpers.support import CAS, ROOT, Cas, Tree, make, snapshot

pytestmark = pytest.mark.per_user

PROJECT = Path(__file__).parents[2]

# The code of a build system in the process of its own task.
_ENTER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import mounter
plan = mounter.Plan.load(open(sys.argv[2], "rb").read())
mounter.enter([plan])
assert not any("site-packages" in path for path in sys.path)
os.chdir(os.path.dirname(os.fsdecode(plan.target)))
os.system("cp -a " + os.fsdecode(plan.target) + " seen")
print("ready", flush=True)
sys.stdin.readline()
"""

_EXECUTE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import mounter
plan = mounter.Plan.load(open(sys.argv[2], "rb").read())
mounter.enter([plan])
os.execvp("sh", ["sh", "-c", "echo ready; read _; cat target/usr/x"])
"""

_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import mounter
plan = mounter.Plan.load(open(sys.argv[2], "rb").read())
with mounter.held(plan):
    sys.exit(mounter.run_plans(["cp", "-a", plan.target, "seen"], [plan]))
"""

_MOUNT = """
import sys
sys.path.insert(0, sys.argv[1])
import mounter
plan = mounter.Plan.load(open(sys.argv[2], "rb").read())
with mounter.held(plan):
    print(mounter.carry_out(plan).strategy.value)
"""


@pytest.fixture
def tree(cas: Cas, work: Path) -> Path:
    made = make(work / "tree", {"usr/x": "x", "l@": "usr"})
    cas("put", "a:t:12345678", make(work / "low", {"usr/x": "low"}))
    cas("put", "b:t:12345678", made)
    return made


def _plan(cas: Cas, work: Path, *options: str) -> dict[str, Any]:
    done = cas("plan", "--json", "target", "a", "b", *options)
    (work / "plan.json").write_text(done.stdout)
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def _bare(work: Path, code: str) -> list[str]:
    return [sys.executable, "-S", "-I", "-c", code, str(PROJECT), str(work / "plan.json")]


def _without_known(work: Path) -> Tree:
    """Return the files of the store, except the composition cache."""
    return {p: e for p, e in snapshot(work).items() if not p.startswith(b"store/known/")}


def test_plan_changes_nothing(cas: Cas, work: Path, tree: Path) -> None:
    before = _without_known(work)
    plan = _plan(cas, work)
    (work / "plan.json").unlink()

    assert _without_known(work) == before
    layers = [cas.json("show", name)["layer"] for name in ("b", "a")]
    assert plan["layers"] == layers
    assert plan["target"] == str(work / "target")
    assert [a["id"] for a in plan["artifacts"]] == ["a:t:12345678", "b:t:12345678"]
    assert plan["strategy"] == cas.json("mount", "target", "a", "b")["strategy"]
    assert [c["path"] for c in plan["conflicts"]] == ["usr/x"]
    assert plan["strategy"] == ("overlay" if ROOT else "hardlink")
    assert len(plan["reasons"]) == (0 if ROOT else 1)
    cas("umount", "target")
    assert _plan(cas, work, "--private")["strategy"] == "overlay"
    assert _plan(cas, work, "--strategy", "copy")["strategy"] == "copy"
    writable = _plan(cas, work, "--rw")
    assert (writable["writable"], writable["strategy"]) == (True, "overlay" if ROOT else "copy")
    lines = cas("plan", "target", "a", "b").stdout.splitlines()
    assert lines[0] == f"target: {work}/target"
    assert lines[-2] == f"  {layers[0]}  b:t:12345678"
    assert lines[-1] == f"  {layers[1]}  a:t:12345678"


def test_plan_is_carried_out_in_the_process_of_a_task(cas: Cas, work: Path, tree: Path) -> None:
    _plan(cas, work, "--private")

    with subprocess.Popen(
        _bare(work, _ENTER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=work
    ) as task:
        assert task.stdout is not None
        assert task.stdout.readline() == "ready\n"
        assert snapshot(work / "seen") == snapshot(tree)
        assert not (work / "target/usr").exists()
        # It is in use for as long as the process lives.
        assert "in use" in cas("rm", "b", code=7).stderr
        (seen,) = cas.json("mounts")
        assert seen["ids"] == ["a:t:12345678", "b:t:12345678"]
        task.communicate("\n")
    assert task.returncode == 0
    assert cas.json("mounts") == []
    cas("rm", "a", "b")


def test_upper_directory_is_claimed_by_the_process_of_a_task(
    cas: Cas, work: Path, tree: Path
) -> None:
    _plan(cas, work, "--private", "--upper", "changes")
    with subprocess.Popen(
        _bare(work, _ENTER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=work
    ) as task:
        assert task.stdout is not None
        assert task.stdout.readline() == "ready\n"
        run = ["run", "--sysroot", "s=a", "--upper", "changes", "--", "true"]
        assert "in use" in cas(*run, code=125).stderr
        task.communicate("\n")
    cas(*run)


def test_process_that_executes_another_program_keeps_what_it_entered(
    cas: Cas, work: Path, tree: Path
) -> None:
    _plan(cas, work, "--private", "--upper", "changes")
    with subprocess.Popen(
        _bare(work, _EXECUTE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=work
    ) as task:
        assert task.stdout is not None
        assert task.stdout.readline() == "ready\n"
        assert "in use" in cas("rm", "b", code=7).stderr
        run = ["run", "--sysroot", "s=a", "--upper", "changes", "--", "true"]
        assert "in use" in cas(*run, code=125).stderr
        assert task.communicate("\n")[0] == "x"
    cas(*run)
    cas("rm", "a", "b")


def test_plan_is_carried_out_in_a_child(cas: Cas, work: Path, tree: Path) -> None:
    _plan(cas, work, "--private")

    subprocess.run(_bare(work, _CHILD), cwd=work, check=True)

    assert snapshot(work / "seen") == snapshot(tree)
    assert os.listdir(cas.store / "leases") == []


@pytest.mark.parametrize("strategy", ["hardlink", "copy", *(["overlay"] if ROOT else [])])
def test_plan_is_mounted_with_its_strategy(cas: Cas, work: Path, tree: Path, strategy: str) -> None:
    _plan(cas, work, "--strategy", strategy)

    done = subprocess.run(_bare(work, _MOUNT), cwd=work, check=True, capture_output=True, text=True)

    assert done.stdout == f"{strategy}\n"
    assert snapshot(work / "target") == snapshot(tree)
    cas("umount", "target")
    assert not (work / "target").exists()


def test_plan_of_removed_artifacts_is_refused(cas: Cas, work: Path, tree: Path) -> None:
    _plan(cas, work)
    cas("rm", "a")

    with pytest.raises(StoreDamaged, match="out of date"):
        hold(Plan.load((work / "plan.json").read_bytes()))
    assert os.listdir(cas.store / "leases") == []


def test_damaged_manifest_stays_inside_without_blake3(cas: Cas, work: Path, tree: Path) -> None:
    plan = _plan(cas, work, "--strategy", "copy")
    manifest = cas.store / "manifests" / plan["layers"][0].rpartition("/")[2]
    manifest.chmod(0o644)
    manifest.write_bytes(Manifest({b"a": b"d"}).encode().replace(b"\0a\0", b"\0../a\0"))

    done = subprocess.run(_bare(work, _MOUNT), cwd=work, capture_output=True, text=True)

    assert done.stderr.endswith("BadManifest: manifest damaged: ../a is not in a directory\n")
    assert not (work / "target").exists()
    assert not (work / "a").exists()


def test_hostile_plan_stays_inside_its_store(cas: Cas, work: Path, tree: Path) -> None:
    good = _plan(cas, work)
    assert Plan.decode(good).encode() == {k: v for k, v in good.items() if k != "conflicts"}
    other = work / "other" / "layers" / good["layers"][0].rpartition("/")[2]
    shutil.copytree(tree, other)
    changed: tuple[dict[str, object], ...] = (
        {"version": 2},
        {"layers": [str(other)]},
        {"layers": ["/etc"]},
        {"layers": [good["layers"][0] + "/.."]},
        {"layers": [good["layers"][0] + "/"]},
        {"layers": [1]},
        {"store": "store"},
        {"store": f"{cas.store}/../store"},
        {"target": "target"},
        {"target": "/x\0y"},
        {"target": None},
        {"upper": "relative"},
        {"strategy": "magic"},
        {"artifacts": [{"id": "x", "tree": "../../etc"}]},
        {"artifacts": [{}]},
    )
    for changes in changed:
        bad = copy.deepcopy(good) | changes
        with pytest.raises(InputRefused, match="not a plan"):
            Plan.decode(bad)
    for text in ("", "[]", "null", "{", "1"):
        with pytest.raises(InputRefused, match="not a plan"):
            Plan.load(text)


def test_plan_keeps_the_bytes_of_the_store_path(work: Path) -> None:
    store = os.fsdecode(os.path.join(os.fsencode(work), b"od\xffd", b"store"))
    here = Cas(Path(store), work)
    here("put", "a:t:12345678", make(work / "tree", {"x": "x"}))
    done = here("plan", "--private", "--json", "target", "a")
    (work / "plan.json").write_text(done.stdout)

    subprocess.run(_bare(work, _CHILD), cwd=work, check=True)

    assert snapshot(work / "seen") == snapshot(work / "tree")


def test_unusable_plan_is_refused(cas: Cas, tree: Path) -> None:
    assert CAS
    if ROOT:
        cas("plan", "/proc/self/fd/nowhere", "a", "--strategy", "hardlink", code=5)
    else:
        done = cas("plan", "target", "a", "--strategy", "overlay", code=5)
        assert "does not let this user mount" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["full"], 8),
        (["file"], 8),
        (["file/below"], 8),
        (["empty", "--upper", "up", "--strategy", "copy"], 5),
        (["empty", "--rw", "--strategy", "hardlink"], 5),
        (["link"], 8),
        (["dangling"], 8),
        (["store/layers/x"], 8),
        (["store"], 8),
        (["."], 8),
        (["mounted"], 7),
        (["target", "--upper", "store/upper"], 8),
        (["target", "--upper", "target/upper"], 8),
        (["target", "--upper", "full"], 8),
        (["target", "--upper", "file"], 8),
    ],
)
def test_plan_refuses_what_mount_refuses(
    cas: Cas, work: Path, tree: Path, words: list[str], code: int
) -> None:
    make(work, {"full/f": "", "file": "", "link@": "empty", "empty/": None, "dangling@": "nothing"})
    cas("mount", "mounted", "b", "--strategy", "copy")
    before = _without_known(work)

    refused = cas("plan", *words, "a", code=code).stderr.splitlines()[0]

    assert cas("mount", *words, "a", code=code).stderr.splitlines()[0] == refused
    assert refused.startswith("cas: ")
    assert _without_known(work) == before
    cas("umount", "mounted")
