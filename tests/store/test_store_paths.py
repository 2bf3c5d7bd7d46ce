"""One store by two paths, as with a bind mount or a symbolic link, is one store."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas.store import Store
from tests.helpers.support import ROOT, Cas, make, snapshot

pytestmark = pytest.mark.per_user

PATHS = ["link", *(["bound"] if ROOT else [])]


@pytest.fixture(params=PATHS)
def other(request: pytest.FixtureRequest, cas: Cas, work: Path) -> Iterator[Cas]:
    """The store of `cas`, which has the artifact a, by another path."""
    cas("put", "a:t:12345678", make(work / "tree", {"usr/x": "x", "l@": "usr"}))
    place = work / request.param
    if request.param == "link":
        place.symlink_to(cas.store)
        yield Cas(place, work)
        return
    place.mkdir()
    subprocess.run(["mount", "--bind", cas.store, place], check=True)
    yield Cas(place, work)
    subprocess.run(["umount", place], check=False, capture_output=True)


@pytest.mark.parametrize("strategy", ["hardlink", "copy", *(["overlay"] if ROOT else [])])
def test_mount_through_one_path_is_in_use_through_the_other(
    cas: Cas, other: Cas, work: Path, strategy: str
) -> None:
    make(work / "second", {"usr/y": "y"})
    for here, there, name in ((cas, other, "b"), (other, cas, "c")):
        here("put", f"{name}:t:12345678", work / "second", "--replace")
        if strategy == "hardlink" and here.store.name == "bound":  # link(2) refuses that
            done = here("mount", "target", "a", "--strategy", strategy, code=5)
            assert "at another mount of it" in done.stderr
            continue
        here("mount", "target", "a", "--strategy", strategy)
        (seen,) = there.json("mounts")
        assert (seen["state"], seen["ids"]) == ("alive", ["a:t:12345678"])
        assert here.json("mounts") == [seen]
        assert "in use" in there("rm", "a", code=7).stderr
        there("gc", "--max-age", "0d", "--grace", "0d")
        assert snapshot(work / "target") == snapshot(work / "tree")
        assert "a:t:12345678" in there("which", "target/usr/x").stdout
        assert there("verify").stdout == "no faults found\n"
        there("umount", "target")
        assert not (work / "target").exists()
        assert here.json("mounts") == []


def test_run_through_one_path_is_in_use_through_the_other(cas: Cas, other: Cas, work: Path) -> None:
    for here, there in ((cas, other), (other, cas)):
        with Store(here.store) as store, store.compose(["a"]):
            (seen,) = there.json("mounts")
            assert (seen["state"], seen["ids"]) == ("running", ["a:t:12345678"])
            assert "in use" in there("rm", "a", code=7).stderr
            there("gc", "--max-age", "0d", "--grace", "0d")
            there("put", "b:t:12345678", work / "tree")
            assert len(store.artifacts()) == 2
        assert there.json("mounts") == []


def test_update_works_through_the_other_path(cas: Cas, other: Cas, work: Path) -> None:
    cas("put", "b:t:12345678", make(work / "second", {"usr/y": "y"}))
    cas("mount", "target", "a", "--strategy", "copy")

    other("update", "target", "b")

    assert snapshot(work / "target") == snapshot(work / "second")
    cas("umount", "target")


def test_umount_works_after_its_store_path_is_gone(cas: Cas, other: Cas, work: Path) -> None:
    strategies = ("copy", *(["overlay"] if ROOT else []))
    for strategy in strategies:
        other("mount", strategy, "a", "--strategy", strategy)
    if other.store.is_symlink():
        other.store.unlink()
    else:
        subprocess.run(["umount", other.store], check=True)

    assert {seen["state"] for seen in cas.json("mounts")} == {"alive"}
    for strategy in strategies:
        cas("umount", strategy)
    assert cas.json("mounts") == []


@pytest.mark.skipif(not ROOT, reason="needs privileges to mount an overlay that others see")
def test_upper_directory_stays_in_use_after_its_store_path_is_gone(
    cas: Cas, other: Cas, work: Path
) -> None:
    other("mount", "target", "a", "--upper", "changes")
    if other.store.is_symlink():
        other.store.unlink()
    else:
        subprocess.run(["umount", other.store], check=True)

    assert "in use" in cas("mount", "second", "a", "--upper", "changes", code=7).stderr
    cas("umount", "target")
    cas("mount", "second", "a", "--upper", "changes")
    cas("umount", "second")


def test_store_is_not_put_through_its_other_path(cas: Cas, other: Cas, work: Path) -> None:
    before = snapshot(cas.store / "objects")
    inside = os.path.join(other.store, "new")

    put = cas("put", "--move", "b:t:12345678", other.store, code=8)
    assert "contains the store" in put.stderr
    for refused in (
        cas("mount", inside, "a", "--strategy", "copy", code=8),
        cas("run", "--sysroot", f"{inside}=a", "--", "true", code=125),
    ):
        assert "overlaps the store" in refused.stderr
    if ROOT:
        done = cas("mount", "target", "a", "--upper", inside, code=8)
        assert "is inside the store" in done.stderr
    assert snapshot(cas.store / "objects") == before
    assert not os.path.exists(inside)
    assert cas("verify").stdout == "no faults found\n"


@pytest.mark.skipif(not ROOT, reason="needs privileges to mount")
def test_tree_that_contains_the_store_is_not_put(cas: Cas, work: Path) -> None:
    cas("put", "a:t:12345678", make(work / "tree", {"x": "x"}))
    make(work / "outer", {"z": "z", "deep/store/": None})
    subprocess.run(["mount", "--bind", cas.store, work / "outer/deep/store"], check=True)
    before = snapshot(cas.store / "objects")

    done = cas("put", "--move", "b:t:12345678", "outer", code=8)

    assert "outer/deep/store is the store itself" in done.stderr
    subprocess.run(["umount", work / "outer/deep/store"], check=True)
    assert snapshot(cas.store / "objects") == before
    assert (work / "outer/z").read_text() == "z"
