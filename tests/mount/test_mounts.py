"""`cas mounts`: targets, times, users and states of mounts."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cas.system.files import seal
from tests.helpers.running import waiting_run
from tests.helpers.support import CAS, ROOT, Cas, make, mount_lines

pytestmark = pytest.mark.per_user

USER = pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() in {p.pw_uid for p in pwd.getpwall()} \
    else str(os.geteuid())  # fmt: skip


@pytest.fixture(autouse=True)
def stored(cas: Cas, work: Path) -> None:
    cas("put", "a:t:12345678", make(work / "a", {"usr/x": "a"}))
    cas("put", "b:t:12345678", make(work / "b", {"usr/y": "b"}))


def _states(cas: Cas) -> dict[str, str]:
    return {mount["where"]: mount["state"] for mount in cas.json("mounts")}


def test_mounts_lists_target_strategy_and_state(cas: Cas, work: Path) -> None:
    assert cas.json("mounts") == []
    began = time.time_ns()
    cas("mount", "one", "a", "b@2", "--strategy", "hardlink")
    cas("mount", "two", "a", "--strategy", "copy")
    mounts = {os.path.basename(mount["where"]): mount for mount in cas.json("mounts")}

    linked = mounts["one"]
    assert linked["where"] == str(work / "one")
    assert linked["ids"] == ["a:t:12345678", "b:t:12345678@2"]
    assert (linked["state"], linked["strategy"], linked["user"]) == ("alive", "hardlink", USER)
    assert began < linked["since_ns"] < time.time_ns()
    assert mounts["two"]["strategy"] == "copy"
    lines = cas("mounts").stdout.splitlines()
    assert lines[0].split() == ["WHERE", "STATE", "STRATEGY", "IDS", "SINCE", "BY"]
    assert len(lines) == 3
    cas("umount", "one")
    cas("umount", "two")
    assert cas.json("mounts") == []


def test_mounts_lists_running_commands(cas: Cas, work: Path) -> None:
    with waiting_run(cas, "--sysroot", f"{work}/s=a,b") as run:
        (mount,) = cas.json("mounts")
        assert mount["where"].startswith(f"run at {work}/s: bash -c echo ready")
        assert (mount["state"], mount["user"], mount["pid"]) == ("running", USER, run.pid)
        assert mount["ids"] == ["a:t:12345678", "b:t:12345678"]
        run.communicate("\n")
    assert cas.json("mounts") == []


def test_mount_removed_by_hand_is_stale_until_cleaned_up(cas: Cas, work: Path) -> None:
    cas("mount", "deep/tree", "a", "--strategy", "hardlink")
    cas("mount", "kept", "a", "--strategy", "copy")
    stale = {str(work / "deep/tree")}
    for directory in (work / "deep/tree", work / "deep/tree/usr"):
        directory.chmod(0o755)
    shutil.rmtree(work / "deep/tree")
    if ROOT:
        cas("mount", "overlay", "a")
        subprocess.run(["umount", work / "overlay"], check=True)
        stale.add(str(work / "overlay"))

    assert _states(cas) == dict.fromkeys(stale, "stale") | {str(work / "kept"): "alive"}
    out = cas("umount", "--all-stale").stdout
    assert sorted(out.splitlines()) == sorted(f"forgot {path}" for path in stale)
    assert _states(cas) == {str(work / "kept"): "alive"}
    assert sorted(os.listdir(work)) == ["a", "b", "kept", "store"]
    cas("umount", "kept")
    assert cas("umount", "--all-stale").stdout == ""
    cas("umount", code=2)
    cas("umount", "kept", "--all-stale", code=2)


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
def test_mounts_of_other_boots_and_namespaces_are_classified(cas: Cas, work: Path) -> None:
    cas("mount", "here", "a")
    record = next((cas.store / "mounts").iterdir())
    _, head, *plans = record.read_text().splitlines(keepends=True)
    subprocess.run(["umount", work / "here"], check=True)
    head = json.dumps(json.loads(head) | {"boot_id": "another"}) + "\n"
    record.write_bytes(seal("".join((head, *plans))))
    assert _states(cas) == {str(work / "here"): "stale"}
    cas("rm", "a")  # nothing holds it
    cas("umount", "--all-stale")

    script = f"{CAS} --store store mount there b; echo ready; read _"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=work,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().endswith("overlay\n")
        assert other.stdout.readline() == "ready\n"
        assert _states(cas) == {str(work / "there"): "elsewhere"}
        assert cas("umount", "--all-stale").stdout == ""
        assert "another mount namespace" in cas("umount", "there", code=7).stderr
        assert "another mount namespace" in cas("update", "there", "b", code=7).stderr
        assert "in use" in cas("rm", "b", code=7).stderr
        other.communicate("\n")
    cas("mounts")


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
def test_mount_of_a_namespace_that_has_ended_can_be_forgotten(cas: Cas, work: Path) -> None:
    mount = ["mount", "target", "a", "--upper", "changes"]
    replace(cas, wrapper=("unshare", "--mount"))(*mount)
    assert _states(cas) == {str(work / "target"): "elsewhere"}

    for refused in (["umount", "target"], mount, ["rm", "a"]):
        cas(*refused, code=7)
    cas("mount", "other", "b", "--upper", "changes", code=7)
    assert "`cas umount --forget " in cas("umount", "target", code=7).stderr
    cas("umount", "--forget", "target")

    assert _states(cas) == {}
    cas(*mount)
    cas("umount", "--forget", "target")  # of this namespace, it is just taken away
    assert str(work) not in mount_lines()
    cas("mount", "other", "b", "--upper", "changes")
    cas("umount", "other")
    cas("rm", "a")


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
def test_writable_overlay_unmounted_by_hand_is_cleaned_up(cas: Cas, work: Path) -> None:
    cas("mount", "target", "a", "--rw")
    subprocess.run(["umount", work / "target"], check=True)

    assert str(work) in mount_lines()  # the tmpfs that took the changes
    assert _states(cas) == {str(work / "target"): "stale"}
    assert cas("umount", "--all-stale").stdout == f"forgot {work}/target\n"
    assert str(work) not in mount_lines()
    assert not (work / "target").exists()
    cas("rm", "a")


def test_umount_follows_a_link_to_the_target(cas: Cas, work: Path) -> None:
    make(work, {"link@": "link2", "link2@": "target"})
    cas("mount", "target", "a")

    cas("umount", "link")

    assert _states(cas) == {}
    assert not (work / "target").exists()
    assert (work / "link").is_symlink()
    cas("umount", "link", code=1)
