"""Mounting at a target, and removing exactly what was mounted."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from cas.store import Store
from tests.helpers.sampling import fault_numbers
from tests.helpers.support import ROOT, Cas, killed, make, snapshot

pytestmark = pytest.mark.per_user

STRATEGIES = ["hardlink", "copy", *(["overlay"] if ROOT else [])]
FILES = {"usr/include/x.h": "x", "usr/bin/tool*": "#!/bin/sh\necho tool\n", "l@": "usr", "e/": None}


@pytest.fixture
def tree(cas: Cas, work: Path) -> Path:
    """A tree that is stored as `a`; a second artifact is `b`."""
    made = make(work / "tree", FILES)
    cas("put", "a:t:12345678", made)
    cas("put", "b:t:12345678", make(work / "other", {"usr/include/y.h": "y"}))
    return made


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_target_is_created_and_removed_with_its_parents(
    cas: Cas, work: Path, tree: Path, strategy: str
) -> None:
    done = cas.json("mount", "new/deep/target", "a", "--strategy", strategy)

    assert done["strategy"] == strategy
    assert done["target"] == str(work / "new/deep/target")
    assert snapshot(work / "new/deep/target") == snapshot(tree)
    cas("umount", "new/deep/target")
    assert not (work / "new").exists()
    assert os.listdir(cas.store / "mounts") == os.listdir(cas.store / "leases") == []


def test_linked_tree_without_its_parent_directory_is_forgotten(
    cas: Cas, work: Path, tree: Path
) -> None:
    for command in (("umount", "place/target"), ("umount", "--all-stale")):
        cas("mount", "place/target", "a", "--strategy", "hardlink")
        (record,) = (cas.store / "mounts").iterdir()
        subprocess.run(["chmod", "-R", "u+w", "place"], cwd=work, check=True)
        shutil.rmtree(work / "place")
        cas(*command)
        assert not record.exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_existing_empty_target_is_left_as_it_was(
    cas: Cas, work: Path, tree: Path, strategy: str
) -> None:
    target = work / "target"
    target.mkdir(mode=0o750)
    if ROOT:
        os.chown(target, 4242, 4243)
    before = target.stat()

    cas("mount", target, "a", "--strategy", strategy)
    assert cas("mount", target, "a", code=7).stdout == ""
    cas("umount", target)

    after = target.stat()
    assert os.listdir(target) == []
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    cas("umount", target, code=1)
    assert target.is_dir()


def test_unfit_target_is_refused_and_unchanged(cas: Cas, work: Path, tree: Path) -> None:
    (work / "file").touch()
    (work / "link").symlink_to("other")
    (work / "empty").mkdir()
    (work / "link-to-empty").symlink_to("empty")
    before = snapshot(work / "other")
    unfit = ("file", "file/below", "link", "link-to-empty", "other", "store", "store/layers", ".")
    for target in unfit:
        assert str(work) in cas("mount", target, "a", code=8).stderr

    assert snapshot(work / "other") == before
    assert os.readlink(work / "link") == "other"
    cas("mount", "missing", "a", "nothing", code=3)
    assert not (work / "missing").exists()


def test_ids_come_from_a_file_and_from_standard_input(cas: Cas, work: Path, tree: Path) -> None:
    (work / "ids").write_text("# dependencies\n\n  b  \na\n")
    full = ["b:t:12345678", "a:t:12345678"]

    assert cas.json("mount", "one", "--from", "ids")["ids"] == full
    assert cas.json("mount", "two", "b", "--from", "ids")["ids"] == [*full, "b:t:12345678"]
    cas("mount", "three", "--from", "-", input="a\nb\n")
    cas("mount", "none", "--from", "-", input="")

    assert sorted(os.listdir(work / "three/usr/include")) == ["x.h", "y.h"]
    assert os.listdir(work / "none") == []
    cas("mount", "four", "--from", "missing", code=1)
    for target in ("one", "two", "three", "none"):
        cas("umount", target)


@pytest.mark.parametrize("strategy", ["hardlink", "copy"])
@pytest.mark.parametrize("change", ["extra file", "extra directory", "changed", "replaced link"])
def test_umount_deletes_only_what_mount_made(
    cas: Cas, work: Path, tree: Path, strategy: str, change: str
) -> None:
    target = work / "target"
    cas("mount", target, "a", "--strategy", strategy)
    for directory in (target, target / "usr", target / "usr/include"):
        directory.chmod(0o755)
    if change == "extra file":
        (odd := target / "usr/mine").write_text("mine")
    elif change == "extra directory":
        (odd := target / "usr/mine").mkdir()
    elif change == "changed":
        (odd := target / "usr/include/x.h").unlink()
        odd.write_text("mine")
    else:
        (odd := target / "l").unlink()
        odd.symlink_to("mine")
    before = snapshot(target)

    assert str(odd.relative_to(target)) in cas("umount", target, code=7).stderr

    assert snapshot(target) == before


def test_half_deleted_tree_is_removed(cas: Cas, work: Path, tree: Path) -> None:
    cas("mount", "target", "a", "--strategy", "hardlink")
    (work / "target/usr/include").chmod(0o755)
    (work / "target/usr/include/x.h").unlink()

    cas("umount", "target")

    assert not (work / "target").exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mounted_artifact_is_not_removed(cas: Cas, work: Path, tree: Path, strategy: str) -> None:
    cas("mount", "target", "a", "--strategy", strategy)

    assert str(work / "target") in cas("rm", "b", "a", code=7).stderr
    assert len(cas.json("ls")) == 2
    cas("put", "--replace", "a:t:12345678", work / "other")
    assert snapshot(work / "target") == snapshot(tree)
    cas("umount", "target")
    cas("rm", "a", "b")


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
def test_busy_overlay_and_foreign_mount_are_kept(cas: Cas, work: Path, tree: Path) -> None:
    target = work / "target"
    cas("mount", target, "a")
    with subprocess.Popen(["cat"], cwd=target / "usr", stdin=subprocess.PIPE) as inside:
        assert "busy" in cas("umount", target, code=7).stderr
        assert snapshot(target) == snapshot(tree)
        inside.communicate()
    # Covered by a foreign mount, it is in use and out of reach.
    subprocess.run(["mount", "-t", "tmpfs", "theirs", target], check=True)
    assert "covered by another mount" in cas("umount", target, code=7).stderr
    assert "covered by another mount" in cas("update", target, "b", code=7).stderr
    assert "in use" in cas("rm", "a", code=7).stderr
    subprocess.run(["umount", target], check=True)
    # With a foreign mount in its place, it is gone.
    subprocess.run(["umount", target], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "theirs", target], check=True)
    cas("umount", target)
    assert os.path.ismount(target)
    subprocess.run(["umount", target], check=True)


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
def test_overlay_is_read_only_for_everyone(cas: Cas, work: Path, tree: Path) -> None:
    before = snapshot(cas.store / "layers")
    cas("mount", "target", "a")
    target = work / "target"

    for attempt in (
        lambda: (target / "usr/include/x.h").write_text("y"),
        lambda: (target / "usr/include/x.h").unlink(),
        lambda: (target / "usr/include/x.h").chmod(0o777),
        lambda: (target / "usr/include/x.h").rename(target / "x.h"),
        lambda: (target / "new").touch(),
        lambda: (target / "e").rmdir(),
        lambda: os.utime(target / "usr/bin/tool"),
        lambda: os.link(target / "usr/bin/tool", target / "t"),
        lambda: subprocess.run(["mount", "-o", "remount,rw", target], check=True),
    ):
        with pytest.raises((OSError, subprocess.CalledProcessError)):
            attempt()
    assert snapshot(cas.store / "layers") == before
    cas("umount", target)


@pytest.mark.skipif(ROOT, reason="modes do not bind root")
@pytest.mark.parametrize("strategy", ["hardlink", "copy"])
def test_linked_tree_is_read_only_by_its_modes(
    cas: Cas, work: Path, tree: Path, strategy: str
) -> None:
    cas("mount", "target", "a", "--strategy", strategy)
    target = work / "target"

    for attempt in (
        lambda: (target / "usr/include/x.h").write_text("y"),
        lambda: (target / "usr/include/x.h").unlink(),
        lambda: (target / "new").touch(),
        lambda: (target / "usr/include/x.h").rename(target / "usr/x.h"),
    ):
        with pytest.raises(PermissionError):
            attempt()
    assert stat.S_IMODE((target / "usr").stat().st_mode) == 0o555
    cas("umount", "target")


def test_hardlinks_across_file_systems_are_refused_and_auto_copies(cas: Cas, tree: Path) -> None:
    target = Path(f"/dev/shm/cas-test-{os.getpid()}")
    assert target.parent.stat().st_dev != cas.store.stat().st_dev

    refused = cas("mount", target, "a", "--strategy", "hardlink", code=5)
    assert "another file system" in refused.stderr
    assert not target.exists()
    cas("mount", target, "a", "--strategy", "copy")
    assert snapshot(target) == snapshot(tree)
    cas("umount", target)
    if not ROOT:
        done = cas.json("mount", target, "a")
        assert done["strategy"] == "copy"
        assert "another file system" in done["reasons"][1]
        cas("umount", target)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_trees_than_the_kernel_takes_are_mounted(cas: Cas, work: Path, strategy: str) -> None:
    with Store(cas.store, create=True) as store:
        for number in range(501):
            store.put(f"r{number}:t:12345678", make(work / f"t/{number}", {str(number): "x"}))
    (work / "ids").write_text("\n".join(f"r{number}" for number in range(501)))

    done = cas.json("mount", "target", "--from", "ids", "--strategy", strategy)

    assert (done["strategy"], done["reasons"]) == (strategy, [])
    assert len(os.listdir(work / "target")) == 501
    cas("umount", "target")


_CALLS = (
    "rename,renameat,renameat2",
    "move_mount",
    "umount2",
    "rmdir,unlink,unlinkat",
    "link,linkat",
    "mkdir,mkdirat",
    "symlink,symlinkat",
    "fchmod,fchmodat",
)


def _gone(cas: Cas, work: Path) -> None:
    """Assert that nothing is left; an empty target may be, if the kill came right after mkdir."""
    if (work / "target").exists():
        (work / "target").rmdir()
    assert [name for name in os.listdir(work) if name.startswith(".")] == []
    assert os.listdir(cas.store / "mounts") == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_mount_leaves_nothing_half_made(
    cas: Cas, work: Path, tree: Path, strategy: str
) -> None:
    whole = snapshot(tree)
    mount = ["mount", "target", "a", "--strategy", strategy]
    hits = 0
    for call in _CALLS:
        for number in fault_numbers():
            if not killed(cas, *mount, call=call, number=number):
                break
            hits += 1
            found = snapshot(work / "target")
            assert found in ({}, whole)
            if found == whole or number % 2:  # an umount clears up, and a mount does too
                cas("umount", "target", code=0 if os.listdir(cas.store / "mounts") else 1)
            cas(*mount)
            assert snapshot(work / "target") == whole
            cas("umount", "target")
            _gone(cas, work)
        cas("umount", "target")
    assert hits >= 4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_umount_can_be_repeated(cas: Cas, work: Path, tree: Path, strategy: str) -> None:
    hits = 0
    for call in _CALLS:
        cas("mount", "target", "a", "--strategy", strategy)
        for number in fault_numbers():
            if not killed(cas, "umount", "target", call=call, number=number):
                break
            hits += 1
            if os.listdir(cas.store / "mounts"):
                cas("umount", "target")
            _gone(cas, work)
            cas("mount", "target", "a", "--strategy", strategy)
        _gone(cas, work)
    assert hits >= 2
