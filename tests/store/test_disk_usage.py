"""`cas du`: the predicted free space is what rm frees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cas.store import Store
from tests.helpers.support import Cas, is_estimate, make

_NAMES = ("one:do_x:12345678", "one:do_x:22345678", "two:do_x:12345678", "same:do_x:12345678")


@pytest.fixture
def filled(cas: Cas, work: Path) -> Cas:
    """A store with four artifacts, which have contents in common, and trees."""
    shared: dict[str, str | None] = {f"shared/{n}": os.urandom(5000).hex() for n in range(5)}
    twice = {"a/twice": "x" * 9000, "b/twice": "x" * 9000, "bit*": "x" * 9000}
    make(work / "tree0", shared | {"own": os.urandom(20_000).hex()})
    make(work / "tree1", shared | twice | {"link@": "own"})
    make(work / "tree2", dict(list(shared.items())[:2]) | {"own": "z" * 30_000, "d/e/f/": None})
    _put(cas, work)
    return cas


def _put(cas: Cas, work: Path) -> None:
    for name, tree in zip(_NAMES, (0, 1, 2, 2), strict=True):
        cas("put", name, work / f"tree{tree}")


def _on_disk(store: Path) -> int:
    found = {
        path.lstat().st_ino: path.lstat().st_blocks * 512
        for part in ("artifacts", "layers", "manifests", "objects")
        for path in (store / part).rglob("*")
    }
    return sum(found.values())


def test_predicted_release_matches_the_disk(filled: Cas, work: Path) -> None:
    cas = filled
    for chosen in (_NAMES[:1], _NAMES[1:2], _NAMES[2:3], _NAMES[2:], _NAMES[:3], _NAMES):
        said = cas.json("du", *chosen)
        before = _on_disk(cas.store)
        freed = cas.json("rm", *chosen)["freed_bytes"]
        assert is_estimate(said["frees_bytes"], freed, len(chosen))
        assert is_estimate(freed, before - _on_disk(cas.store), len(chosen))
        if len(chosen) == 1:
            assert said["artifacts"][0]["own_bytes"] == said["frees_bytes"]
        if chosen == _NAMES:
            assert said["disk_bytes"] == said["frees_bytes"]
        _put(cas, work)


def test_own_and_shared_add_up_to_the_size(filled: Cas) -> None:
    cas = filled
    together = {one["id"]: one for one in cas.json("du", *_NAMES)["artifacts"]}
    for name in _NAMES:
        (alone,) = cas.json("du", name)["artifacts"]
        assert alone == together[name]
        assert 0 <= alone["own_bytes"] < alone["disk_bytes"]
        assert (alone["own_bytes"] == 0) == (name in _NAMES[2:])  # two artifacts of one tree
        assert alone["own_bytes"] + alone["shared_bytes"] == alone["disk_bytes"]
    assert cas.json("du", *_NAMES)["disk_bytes"] < sum(o["disk_bytes"] for o in together.values())
    with Store(cas.store) as store:
        assert store.disk_usage(["two", "two"]) == store.disk_usage(["two"])
    said = cas("du", "two").stdout.splitlines()
    assert [line.split()[0] for line in said[:2]] == ["ID", _NAMES[2]]
    assert "freed if all are removed" in said[2]
    cas("du", "absent", code=3)
    cas("du", code=2)
