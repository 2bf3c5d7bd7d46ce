"""A linked tree that several processes make and take away: whole, or nothing of it is left."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from cas.system.directories import open_directory
from cas.system.remove_tree import remove_tree
from tests.helpers.endings import End, end_after, interrupt, kill_a_child
from tests.helpers.support import ROOT, Cas, make, snapshot, sound

pytestmark = pytest.mark.per_user

ID = "large:t:12345678"


@pytest.fixture
def tree(cas: Cas, work: Path) -> Path:
    """4000 files and links in 200 directories, which processes share out."""
    files = {f"{n % 200}/d/f{n}{'*' if n % 3 else ''}": str(n % 50) for n in range(3600)}
    links = {f"{n % 200}/d/l{n}@": f"f{n}" for n in range(400)}
    cas("put", ID, make(work / "tree", files | links))
    return work / "tree"


@pytest.mark.parametrize("strategy", ["hardlink", "copy"])
def test_large_linked_tree_is_made_and_removed_whole(
    cas: Cas, work: Path, tree: Path, strategy: str
) -> None:
    cas("mount", "--strategy", strategy, work / "sysroot", ID)
    assert snapshot(work / "sysroot") == snapshot(tree)
    directories = [path for path in (work / "sysroot").rglob("*/") if not path.is_symlink()]
    assert {path.stat().st_mode & 0o777 for path in directories} == {0o555}

    cas("umount", work / "sysroot")
    assert not (work / "sysroot").exists()
    sound(cas.store)


def test_large_linked_tree_with_a_foreign_file_is_not_removed(
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

    (sysroot / "7/d/l7").unlink()  # a missing entry does not matter
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
        command = ["mount", "--strategy", "hardlink", str(sysroot), ID]
        code = end_after(cas, end, number / 250, *command)
        if cas.json("mounts"):  # it was faster
            assert snapshot(sysroot) == snapshot(tree)
            cas("umount", sysroot)
            continue
        assert code != 0
        ended += 1
        assert sorted(os.listdir(work)) == before
    assert ended > 0
    sound(cas.store)


@pytest.mark.skipif(not ROOT, reason="only root can mount inside of a tree for all to see")
@pytest.mark.parametrize("options", [["hardlink"], ["copy"], ["copy", "--rw"]], ids=" ".join)
@pytest.mark.parametrize("place", ["d", "d/f", ""])
def test_foreign_mount_on_a_linked_tree_stops_removal(
    cas: Cas, work: Path, place: str, options: list[str]
) -> None:
    cas("put", ID, make(work / "tree", {"d/f": "1", "g": "2"}))
    layer = Path(cas.json("show", ID)["layer"])
    where = work / "sysroot" / place
    cas("mount", "--strategy", *options, work / "sysroot", ID)
    # The store's own file system: only the mount shows that it is another one.
    subprocess.run(["mount", "--bind", layer / place, where], check=True)
    try:
        assert f"is mounted at {where}\n" in cas("umount", work / "sysroot", code=7).stderr
        if "--rw" not in options:
            cas("update", work / "sysroot", ID, code=7)
        assert snapshot(work / "sysroot") == snapshot(layer) == snapshot(work / "tree")
    finally:
        subprocess.run(["umount", where], check=True)
    assert snapshot(work / "sysroot") == snapshot(work / "tree")
    cas("umount", work / "sysroot")
    assert not (work / "sysroot").exists()
    sound(cas.store)


@pytest.mark.parametrize("strategy", ["hardlink", "copy"])
def test_symbolic_link_is_restored_from_the_manifest(cas: Cas, work: Path, strategy: str) -> None:
    tree = make(work / "tree", {"file": "1", "one@": "file", "two@": "file", "three@": "file"})
    cas("put", ID, tree)
    layer = Path(cas.json("show", ID)["layer"])
    (layer / "one").unlink()
    (layer / "one").symlink_to("/etc/shadow")
    (layer / "two").unlink()
    (layer / "three").unlink()
    (layer / "three").write_text("a file")

    cas("mount", "--strategy", strategy, work / "sysroot", ID)
    assert snapshot(work / "sysroot") == snapshot(tree)
    cas("umount", work / "sysroot")
    assert not (work / "sysroot").exists()


def test_tree_of_symbolic_links_is_made_on_another_file_system(cas: Cas, work: Path) -> None:
    tree = make(work / "tree", {"d/one@": "nowhere", "two@": "d"})
    cas("put", ID, tree)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        cas("mount", "--strategy", "hardlink", f"{directory}/sysroot", ID)
        assert snapshot(f"{directory}/sysroot") == snapshot(tree)
        cas("umount", f"{directory}/sysroot")


@pytest.mark.parametrize("strategy", ["hardlink", "copy"])
def test_deep_tree_can_be_linked(cas: Cas, work: Path, strategy: str) -> None:
    cas("put", ID, make(work / "tree", {"d/" * 600 + "file": "1"}))
    few = replace(cas, wrapper=(*cas.wrapper, "prlimit", "--nofile=1024"))

    few("mount", "--strategy", strategy, work / "sysroot", ID)
    assert snapshot(work / "sysroot") == snapshot(work / "tree")
    few("umount", work / "sysroot")
    assert not (work / "sysroot").exists()


def test_link_error_names_the_missing_file(cas: Cas, work: Path) -> None:
    cas("put", ID, make(work / "tree", {"a/f": "1", "b/g": "2"}))
    layer = Path(cas.json("show", ID)["layer"])
    (layer / "b/g").unlink()

    refusal = cas("mount", "--strategy", "hardlink", work / "sysroot", ID, code=1).stderr
    assert f"layers/{layer.name}/b/g" in refusal
    assert not (work / "sysroot").exists()


def test_writable_copy_shares_no_inode_with_the_store(cas: Cas, work: Path) -> None:
    cas("put", ID, make(work / "tree", {"d/file": "1", "d/link@": "file"}))
    cas("mount", "--rw", "--strategy", "copy", work / "sysroot", ID)

    assert {path.lstat().st_nlink for path in (work / "sysroot/d").iterdir()} == {1}
    cas("umount", work / "sysroot")


@pytest.mark.skipif(not ROOT, reason="only root can mount inside of a tree for all to see")
def test_tree_deletion_stops_at_another_file_system(work: Path) -> None:
    place = make(work, {"tree/d/": None}) / "tree/d"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        (place / "precious").write_text("precious")
        with open_directory(os.fsencode(work)) as fd, pytest.raises(OSError, match="busy"):
            remove_tree(b"tree", fd)
        assert (place / "precious").read_text() == "precious"
    finally:
        subprocess.run(["umount", place], check=True)
