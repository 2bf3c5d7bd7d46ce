"""A linked tree that several processes make and take away: whole, or nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.endings import End, children_of, interrupt, kill_a_child
from tests.support import CAS, Cas, make, snapshot, sound

ID = "large:t:12345678"


@pytest.fixture
def tree(cas: Cas, work: Path) -> Path:
    """4000 files and links in 200 directories, which processes share out."""
    files = {f"{n % 200}/d/f{n}{'*' if n % 3 else ''}": str(n % 50) for n in range(3600)}
    links = {f"{n % 200}/d/l{n}@": f"f{n}" for n in range(400)}
    cas("put", ID, make(work / "tree", files | links))
    return work / "tree"


@pytest.mark.parametrize("strategy", ["hardlink", "copy"])
def test_large_tree_is_made_whole_and_taken_away_whole(
    cas: Cas, work: Path, tree: Path, strategy: str
) -> None:
    cas("mount", "--strategy", strategy, work / "sysroot", ID)
    assert snapshot(work / "sysroot") == snapshot(tree)
    directories = [path for path in (work / "sysroot").rglob("*/") if not path.is_symlink()]
    assert {path.stat().st_mode & 0o777 for path in directories} == {0o555}

    cas("umount", work / "sysroot")
    assert not (work / "sysroot").exists()
    sound(cas.store)


def test_nothing_of_a_large_tree_is_removed_if_something_in_it_is_not_ours(
    cas: Cas, work: Path, tree: Path
) -> None:
    sysroot = work / "sysroot"
    cas("mount", "--strategy", "hardlink", sysroot, ID)
    for path in (sysroot, sysroot / "7/d", sysroot / "9"):
        path.chmod(0o755)
    (sysroot / "7/d/l7").unlink()
    (sysroot / "7/d/l7").write_text("a file, not a link")
    (sysroot / "9/more").write_text("more")
    (sysroot / "new/d").mkdir(parents=True)
    before = snapshot(sysroot)

    assert "there: 7/d/l7, 9/more, new\n" in cas("umount", sysroot, code=7).stderr
    assert snapshot(sysroot) == before

    (sysroot / "7/d/l7").unlink()  # what is gone already is no hindrance
    (sysroot / "9/more").unlink()
    (sysroot / "new/d").rmdir()
    (sysroot / "new").rmdir()
    cas("umount", sysroot)
    assert not sysroot.exists()


@pytest.mark.parametrize("end", [interrupt, kill_a_child], ids=["interrupt", "child killed"])
def test_ended_mount_leaves_nothing(cas: Cas, work: Path, tree: Path, end: End) -> None:
    before = sorted(os.listdir(work))
    sysroot = work / "sysroot"
    ended = 0
    for number in range(8):
        options = ["mount", "--strategy", "hardlink", str(sysroot), ID]
        command = [*cas.wrapper, CAS, "--store", str(cas.store), *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, process_group=0) as mount:
            children = children_of(mount)
            time.sleep(number / 250)
            end(mount, children)
            errors = mount.communicate()[1]
        if cas.json("mounts"):  # it was faster
            assert snapshot(sysroot) == snapshot(tree)
            cas("umount", sysroot)
            continue
        assert mount.returncode in (1, 130, -signal.SIGINT), errors
        assert b"Traceback" not in errors
        ended += 1
        assert sorted(os.listdir(work)) == before
    assert ended > 0
    sound(cas.store)
