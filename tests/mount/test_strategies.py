"""A composition is the same tree under every strategy, and the one that copying would give."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

import mounter
from cas.store import Store
from mounter import Strategy
from tests.helpers.support import Tree, make, seen_in_run, snapshot

pytestmark = pytest.mark.per_user

_NAMES = st.sampled_from("abc")
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_KINDS = st.sampled_from(["1", "2", "1*", "@x", "@a", "/"])
_TREES = st.dictionaries(_PATHS, _KINDS, max_size=5)


def _make(root: Path, wanted: dict[str, str]) -> None:
    """Make a tree as far as its paths agree with each other; the first one met wins."""
    root.mkdir()
    for path, kind in sorted(wanted.items()):
        parents = [root.joinpath(*path.split("/")[:n]) for n in range(1, path.count("/") + 1)]
        if any(os.path.lexists(p) and (p.is_symlink() or not p.is_dir()) for p in parents):
            continue
        if kind == "/":
            make(root, {path + "/": None})
        elif kind.startswith("@"):
            make(root, {path + "@": kind[1:]})
        else:
            make(root, {path + kind[1:]: kind[0]})


def _copied_over(trees: Sequence[Tree]) -> Tree:
    """Return, independently of the code under test, the result of copying the trees in order."""
    result: Tree = {}
    for tree in trees:
        for path in sorted(tree):
            if tree[path] != ("directory",) or result.get(path) != ("directory",):
                for below in [p for p in result if p.startswith(path + b"/")]:
                    del result[below]
            result[path] = tree[path]
    return result


_COMPOSITIONS = st.lists(st.tuples(_TREES, st.integers(-1, 1)), max_size=4)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(_COMPOSITIONS)
@example([({"a/b": "1"}, 0), ({"a": "1"}, 0), ({"a/c": "1"}, 0)])
@example([({"a/b": "1"}, 0), ({"a": "@x"}, 0)])
@example([({"a": "@b", "b/c": "1"}, 0), ({"a/c": "2"}, 0)])
@example([({"a": "1"}, 0), ({"a": "2"}, 0), ({"a": "1"}, 0)])
@example([({"a": "1"}, 1), ({"a": "2"}, 0), ({"a": "1*"}, -1)])
@example([({}, 0), ({}, 0)])
def test_strategy_gives_what_copying_in_order_gives(
    wanted: list[tuple[dict[str, str], int]],
) -> None:
    work = Path(tempfile.mkdtemp())
    try:
        ids = [f"r{number}:t:12345678" for number in range(len(wanted))]
        with Store(work / "store", create=True) as store:
            for id_, (tree, _) in zip(ids, wanted, strict=True):
                _make(work / id_, tree)
                store.put(id_, work / id_)
            in_order = [ids[n] for n in sorted(range(len(wanted)), key=lambda n: wanted[n][1])]
            expected = _copied_over([snapshot(work / id_) for id_ in in_order])
            everything = {os.fsdecode(path) for id_ in ids for path in snapshot(work / id_)}
            names = [f"{id_}@{n}" for id_, (_, n) in zip(ids, wanted, strict=True)]
            with store.compose(names, allow=sorted(everything)) as composition:
                assert seen_in_run(composition, work / "run") == expected
                assert seen_in_run(composition, work / "run", writable=True) == expected
                for strategy, writable in (
                    (Strategy.HARDLINK, False),
                    (Strategy.COPY, False),
                    (Strategy.COPY, True),
                ):
                    with mounter.mounted(
                        composition, work / "target", strategy, writable=writable
                    ) as mount:
                        assert mount.strategy is strategy
                        assert snapshot(work / "target") == expected
                    assert not (work / "target").exists()
    finally:
        shutil.rmtree(work)


def test_later_artifact_wins_under_every_strategy(store: Store, work: Path) -> None:
    store.put("a:t:12345678", make(work / "a", {"usr/x": "a", "usr/only-a": "a"}))
    store.put("b:t:12345678", make(work / "b", {"usr/x": "b", "usr/only-b*": "b"}))

    for names, winner in ((["a", "b"], "b"), (["b", "a"], "a"), (["a", "b", "a"], "a")):
        with store.compose(names) as composition:
            assert (
                seen_in_run(composition, work / "run")[b"usr/x"]
                == (snapshot(work / winner)[b"usr/x"])
            )
            for strategy in (Strategy.HARDLINK, Strategy.COPY):
                with mounter.mounted(composition, work / "target", strategy):
                    assert (work / "target/usr/x").read_text() == winner
                    assert (work / "target/usr/only-b").stat().st_mode & 0o111


def test_equal_trees_and_repeated_names_compose(store: Store, work: Path) -> None:
    tree = make(work / "tree", {"x": "1"})
    store.put("a:t:12345678", tree)
    store.put("b:t:12345678", tree)

    with store.compose(["a", "b", "a", "a"]) as composition:
        assert seen_in_run(composition, work / "run") == snapshot(tree)


def test_store_at_any_path_can_be_mounted(work: Path) -> None:
    """Colons, commas and backslashes mean something in mount options; 255 bytes end a string."""
    for name in (b"co:lon", b"com,ma", b"back\\slash", b"new\nline", b"sp ace", b"\xff",
                 b"/".join([b"long" * 50] * 3)):  # fmt: skip
        path = os.path.join(os.fsencode(work), name, b"store")
        with Store(path, create=True) as store:
            store.put("a:t:12345678", make(work / "tree", {"x": "1"}))
            with store.compose(["a"]) as composition:
                assert seen_in_run(composition, work / "run") == snapshot(work / "tree")


def test_linked_tree_shares_inodes_and_a_copy_does_not(store: Store, work: Path) -> None:
    store.put("a:t:12345678", make(work / "a", {"x": "1", "dir/y*": "2"}))
    stored = Path(os.fsdecode(store.layer_path(store.resolve("a"))))
    with store.compose(["a"]) as composition:
        for strategy, shared in ((Strategy.HARDLINK, True), (Strategy.COPY, False)):
            with mounter.mounted(composition, work / "target", strategy):
                for name in ("x", "dir/y"):
                    here, there = (work / "target" / name).stat(), (stored / name).stat()
                    assert (here.st_ino == there.st_ino) is shared
                    assert here.st_mode == there.st_mode
                    assert here.st_mtime_ns == there.st_mtime_ns


def test_more_files_than_an_inode_may_have_links(store: Store, work: Path) -> None:
    """A tree that cannot be linked wholly is copied where it must be."""
    tree = make(work / "tree", {})
    for number in range(40_000):  # twice that, plus the layer's, exceeds the limit of ext4
        (tree / str(number)).touch()
    store.put("a:t:12345678", tree)
    with (
        store.compose(["a"]) as composition,
        mounter.mounted(composition, work / "one", Strategy.HARDLINK),
        mounter.mounted(composition, work / "two", Strategy.HARDLINK),
    ):
        assert len(os.listdir(work / "two")) == 40_000
