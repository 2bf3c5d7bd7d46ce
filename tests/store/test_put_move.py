"""`put --move`: the tree is consumed, and no open file can write to the store."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cas.errors import InputRefused
from cas.put.consume import TreeLeftOver
from cas.store import Store
from tests.helpers.support import ROOT, Cas, make, objects_of, snapshot

pytestmark = pytest.mark.per_user

ID = "a:t:12345678"


def _inodes(store: Store) -> set[int]:
    return {os.stat(path).st_ino for path in objects_of(store.path)}


def test_moved_files_become_objects_and_the_tree_is_removed(cas: Cas, work: Path) -> None:
    tree = make(work / "tree", {"a": "1", "tool*": "2", "dir/deep/": None, "dir/l@": "nowhere"})
    before = snapshot(tree)
    inodes = {(tree / "a").stat().st_ino, (tree / "tool").stat().st_ino}

    cas("put", "--move", ID, tree)

    assert not tree.exists()
    with Store(cas.store) as store:
        layer = store.layer_path(store.resolve(ID))
        assert snapshot(layer) == before
        assert _inodes(store) == inodes
        assert all(os.stat(path).st_nlink == 2 for path in objects_of(store.path))


def test_moved_known_tree_is_removed(store: Store, work: Path) -> None:
    store.put(ID, make(work / "tree", {"a": "1"}), move=True)

    assert store.put(ID, make(work / "tree", {"a": "1"}), move=True).unchanged
    assert not (work / "tree").exists()


@pytest.mark.parametrize("why", ["second link", "open writer", "attribute", "owner"])
def test_move_copies_a_file_that_others_could_write(store: Store, work: Path, why: str) -> None:
    tree = make(work / "tree", {"a": "1"})
    inode = (tree / "a").stat().st_ino
    writer = -1
    if why == "second link":
        os.link(tree / "a", work / "elsewhere")
    elif why == "open writer":
        writer = os.open(tree / "a", os.O_WRONLY)
    elif why == "attribute":
        os.setxattr(tree / "a", "user.note", b"x")
    elif ROOT:
        os.chown(tree / "a", 4242, 4242)
    else:
        pytest.skip("only root gives files away")

    store.put(ID, tree, move=True)

    if writer >= 0:
        os.write(writer, b"overwritten")
        os.close(writer)
    assert inode not in _inodes(store)
    assert not tree.exists()
    assert list(store.verify()) == []
    if why == "second link":
        (work / "elsewhere").write_text("overwritten")
        assert list(store.verify()) == []


def test_move_keeps_a_refused_tree(store: Store, work: Path) -> None:
    tree = make(work / "tree", {"a": "1", "b*": "2"})
    os.utime(tree / "a", ns=(1, 2))
    os.mkfifo(tree / "zzz")
    before = {p.name: (p.stat().st_mode, p.stat().st_mtime_ns) for p in tree.iterdir()}

    with pytest.raises(InputRefused):
        store.put(ID, tree, move=True)

    after = {p.name: (p.stat().st_mode, p.stat().st_mtime_ns) for p in tree.iterdir()}
    assert after == before
    assert all(p.stat().st_nlink == 1 for p in tree.iterdir())
    assert objects_of(store.path) == []


def test_move_keeps_a_conflicting_tree(cas: Cas, work: Path) -> None:
    cas("put", ID, make(work / "old", {"a": "1"}))
    tree = make(work / "tree", {"a": "2"})

    cas("put", "--move", ID, tree, code=4)

    assert (tree / "a").read_text() == "2"
    assert stat.S_IMODE((tree / "a").stat().st_mode) == 0o644
    assert (tree / "a").stat().st_nlink == 1
    assert len(objects_of(cas.store)) == 1


def test_move_copies_across_file_systems(store: Store, tmp_path: Path) -> None:
    shared_memory = Path(f"/dev/shm/cas-test-{os.getpid()}")
    tree = make(shared_memory, {"a": "1", "b/c": "2"})
    try:
        assert tree.stat().st_dev != os.fstat(store.fd).st_dev
        before = snapshot(tree)

        store.put(ID, tree, move=True)

        assert not tree.exists()
        assert snapshot(store.layer_path(store.resolve(ID))) == before
    finally:
        if tree.exists():
            import shutil

            shutil.rmtree(tree)


@pytest.mark.skipif(ROOT, reason="root may remove anything")
def test_move_reports_files_it_cannot_remove(store: Store, work: Path) -> None:
    tree = make(work / "tree", {"locked/a": "1", "b": "2"})
    (tree / "locked").chmod(0o555)

    with pytest.raises(TreeLeftOver, match="locked/a"):
        store.put(ID, tree, move=True)

    assert (tree / "locked/a").read_text() == "1"
    assert store.find(ID) is not None
