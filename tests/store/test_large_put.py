"""A tree that several processes store: it is whole, or nothing of it is left, in the store or not.

However it ends: by an entry that cannot be stored, a signal, or a process that is killed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cas.put.ingest import ingest
from cas.put.journal import Journal
from cas.store import Store
from cas.system.directories import open_directory
from tests.helpers.endings import End, end_after, interrupt, kill_a_child
from tests.helpers.support import Cas, objects_of, snapshot, sound, tidy

ID = "large:t:12345678"
_State = dict[str, tuple[int, int]]


@pytest.fixture
def tree(work: Path) -> Path:
    """400 files of 100 kB, which processes share out, and some equal ones among them."""
    for number in range(400):
        path = work / f"tree/{number % 7}/file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % (number // 2) + bytes(100_000))
        path.chmod(0o644 if number % 3 else 0o755)
    return work / "tree"


def _state(tree: Path) -> _State:
    """Return the modes and times of a tree."""
    found = {str(path): path.stat() for path in tree.glob("*/*")}
    return {name: (st.st_mode, st.st_mtime_ns) for name, st in found.items()}


@pytest.mark.per_user
@pytest.mark.parametrize("options", [[], ["--move"]], ids=["copied", "moved"])
def test_large_tree_is_stored_whole(cas: Cas, tree: Path, options: list[str]) -> None:
    before = snapshot(tree)

    assert "400 files" in cas("put", *options, ID, tree).stdout
    assert snapshot(Path(cas.json("show", ID)["layer"])) == before
    assert tree.exists() == (options == [])
    assert {os.stat(path).st_nlink for path in objects_of(cas.store)} >= {2, 3}
    sound(cas.store)
    tidy(cas.store)


@pytest.mark.parametrize("options", [[], ["--move"]], ids=["copied", "moved"])
@pytest.mark.parametrize("end", [interrupt, kill_a_child], ids=["interrupt", "child killed"])
def test_interrupted_large_put_leaves_tree_and_store_unchanged(
    cas: Cas,
    tree: Path,
    options: list[str],
    end: End,
) -> None:
    before, state = snapshot(tree), _state(tree)
    cas("init")
    ended = 0
    for number in range(15):
        code = end_after(cas, end, number / 200, "put", *options, ID, str(tree))
        if cas.json("ls"):  # it was faster
            break
        assert code != 0
        ended += 1
        assert _state(tree) == state
        assert objects_of(cas.store) == []
        assert os.listdir(cas.store / "tmp") == os.listdir(cas.store / "layers") == []
    else:
        assert snapshot(tree) == before
        cas("put", *options, ID, tree)
    assert ended > 0
    assert snapshot(Path(cas.json("show", ID)["layer"])) == before
    sound(cas.store)


def test_objects_of_a_vanished_directory_are_removed(cas: Cas, work: Path) -> None:
    """As where a build is stopped, and cleaned up, while it stores its output."""
    cas("init")
    with Store(cas.store) as store, Journal() as journal, open_directory(os.fsencode(work)) as fd:
        objects = store.objects
        (work / "file").write_text("content")
        ingest(objects, b"gone/file", fd, os.fsencode(work), journal, move=False)
        assert len(objects_of(cas.store)) == 1
        journal.undo(fd, objects)
    assert objects_of(cas.store) == []


def test_unstorable_entry_leaves_nothing(cas: Cas, tree: Path) -> None:
    os.setxattr(tree / "3/file-10", "user.overlay.origin", b"")
    state = _state(tree)

    assert "3/file-10 is part of an overlayfs" in cas("put", "--move", ID, tree, code=8).stderr
    assert _state(tree) == state
    assert objects_of(cas.store) == []
