"""Kills at every step, many processes at once, a boot in between: nothing recorded is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cas.model.artifact import Artifact
from cas.model.signature import NoSuchSignature
from cas.store import Store
from tests.helpers.index import change_record
from tests.helpers.sampling import fault_numbers
from tests.helpers.support import Cas, killed, make, objects_of, snapshot, tidy

_CALLS = (
    "link,linkat",
    "rename,renameat,renameat2",
    "symlink,symlinkat",
    "mkdir,mkdirat",
    "unlink,unlinkat,rmdir",
    "pwrite64,pwritev,writev",
    "write",
    "fdatasync,fsync,msync",
    "fchmod,fchmodat",
)
_MARKS = dict.fromkeys(("unlink,unlinkat,rmdir", "fchmod,fchmodat"), pytest.mark.per_user)
"""Only users need these to change read-only directories."""


def _whole(store: Path, names: set[str]) -> None:
    """Assert that the store has these artifacts at least, and that all it has are whole."""
    with Store(store) as opened:
        assert names <= {str(artifact.signature) for artifact in opened.artifacts()}
        assert [found for found in opened.verify() if found.kind.is_damage] == []
        for artifact in opened.artifacts():
            with opened.compose([str(artifact.signature)]) as composition:
                assert composition.layers == (artifact.tree,)


@pytest.mark.parametrize(
    "call", [pytest.param(call, marks=_MARKS.get(call, ())) for call in _CALLS]
)
def test_kill_at_any_step_of_put_rm_or_gc_loses_nothing(cas: Cas, work: Path, call: str) -> None:
    cas("put", "kept:t:12345678", make(work / "kept", {"shared": "1", "own": "kept"}))
    cas("pin", "kept")
    tree = make(work / "tree", {"shared": "1", "new": "2", "tool*": "3", "d/l@": "x"})
    before = snapshot(tree)
    hits = 0
    collect = ["gc", "--max-age=0s", "--grace=0s"]
    for command in (["put", "a:t:12345678", "tree"], ["rm", "a"], collect):
        for number in fault_numbers():
            if not killed(cas, *command, call=call, number=number):
                break
            hits += 1
            _whole(cas.store, {"kept:t:12345678"})
            cas("gc")
            tidy(cas.store)
            cas("put", "--replace", "a:t:12345678", "tree")
            _whole(cas.store, {"kept:t:12345678", "a:t:12345678"})
            if command[0] == "put":
                cas("rm", "a")
    assert snapshot(tree) == before
    assert hits > 0


@pytest.mark.parametrize("call", ["link,linkat", "mkdir,mkdirat", "rename,renameat,renameat2"])
def test_kill_of_the_first_put_can_be_repeated(cas: Cas, work: Path, call: str) -> None:
    tree = make(work / "tree", {"a": "1"})
    for number in (1, 2, 3, 5, 8, 100, 270):
        if killed(cas, "put", "a:t:12345678", str(tree), call=call, number=number):
            cas("put", "--replace", "a:t:12345678", tree)
            _whole(cas.store, {"a:t:12345678"})
        subprocess.run(["rm", "-rf", cas.store], check=True)


@pytest.mark.per_user
def test_moved_tree_survives_a_kill_in_one_place(cas: Cas, work: Path) -> None:
    files = {"a": "1", "b": "2", "d/c": "3"}
    expected = snapshot(make(work / "expected", files))
    for call in ("link,linkat", "unlink,unlinkat", "rename,renameat,renameat2"):
        tree = make(work / "tree", files)
        for number in fault_numbers():
            if not killed(cas, "put", "--move", "a:t:12345678", "tree", call=call, number=number):
                break
            with Store(cas.store, create=True) as store:
                stored = store.find("a:t:12345678")
                if stored is None:
                    assert snapshot(tree) == expected
                else:
                    assert snapshot(store.layer_path(stored)) == expected
            subprocess.run(["rm", "-rf", tree, cas.store], check=True)
            make(tree, files)


_WORKER = """
import random, sys
from cas.errors import CasError
from cas.store import Store
seed, store, trees = int(sys.argv[1]), sys.argv[2], sys.argv[3]
chance = random.Random(seed)
with Store(store, create=True) as store:
    for _ in range(120):
        number = chance.randrange(6)
        name = f"r{number}:t:12345678"
        try:
            act = chance.random()
            if act < 0.6:
                store.put(name, f"{trees}/{number}", replace=True)
            elif act < 0.8:
                store.remove([name])
            else:
                with store.compose([name]) as composition:
                    layer = store.layer_path(composition.artifacts[0])
                    with open(layer + b"/common", "rb") as file:
                        assert file.read() == b"common"
                    with open(layer + b"/own", "rb") as file:
                        assert file.read() == b"%d" % number
        except CasError as error:
            if error.exit_code not in (3, 7):  # not there, or in use by another worker
                raise
"""


@pytest.mark.per_user
def test_concurrent_put_remove_and_use_lose_nothing(work: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    for number in range(6):
        make(work / f"trees/{number}", {"common": "common", "own": str(number), "e": ""})
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(seed + n), work / "store", work / "trees"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(8)
    ]
    errors = [worker.communicate()[1] for worker in workers]

    assert [worker.returncode for worker in workers] == [0] * 8, errors
    _whole(work / "store", set())
    with Store(work / "store") as store:
        wanted = {
            (entry.digest, entry.executable)
            for artifact in store.artifacts()
            for entry in store.manifest(artifact)
            if entry.digest
        }
        store.remove([str(artifact.signature) for artifact in store.artifacts()])
        assert store.artifacts() == []
    assert len(wanted) <= 8
    assert os.listdir(work / "store/layers") == []
    assert os.listdir(work / "store/tmp") == []


def _as_of_an_earlier_boot(store: Store, artifact: Artifact) -> None:
    """Make a record look as a machine that lost its power would leave it."""
    change_record(store, artifact, boot_id="an-earlier-boot")


def test_artifact_of_an_earlier_boot_is_used_only_if_intact(store: Store, work: Path) -> None:
    for name, content in (("good", "1"), ("cut", "2"), ("lost", "3")):
        done = store.put(f"{name}:t:12345678", make(work / name, {"file": content}))
        _as_of_an_earlier_boot(store, done.artifact)
    cut = Path(os.fsdecode(store.layer_path(store.artifacts()[0])))
    assert store.artifacts()[0].signature.recipe == "cut"
    (cut / "file").chmod(0o644)
    (cut / "file").write_text("")
    (cut / "file").chmod(0o444)
    os.unlink(os.path.join(os.fsdecode(store.layer_path(store.artifacts()[2])), "file"))

    with pytest.raises(NoSuchSignature) as lost:
        store.compose(["good", "cut", "lost"])

    assert lost.value.missing == ["cut", "lost"]
    assert [a.signature.recipe for a in store.artifacts()] == ["good"]
    good = store.resolve("good")
    assert good.boot_id is None
    assert store.find("cut:t:12345678") is None


def test_put_does_not_reuse_an_object_cut_by_a_power_failure(store: Store, work: Path) -> None:
    done = store.put("a:t:12345678", make(work / "tree", {"file": "content"}))
    _as_of_an_earlier_boot(store, done.artifact)
    (damaged,) = objects_of(store.path)
    os.chmod(damaged, 0o644)
    with open(damaged, "w"):
        pass
    os.chmod(damaged, 0o444)
    os.utime(damaged, (1, 1))

    store.put("b:t:12345678", work / "tree")
    store.put("a:t:12345678", work / "tree")

    assert list(store.verify()) == []
    for name in ("a", "b"):
        layer = os.fsdecode(store.layer_path(store.resolve(name)))
        assert Path(layer, "file").read_text() == "content"


def test_contents_of_an_earlier_boot_with_a_later_clock_are_rechecked(cas: Cas, work: Path) -> None:
    tree = make(work / "tree", {"file": "content"})
    cas("put", "a:t:12345678", tree)
    (damaged,) = (Path(os.fsdecode(path)) for path in objects_of(cas.store))
    damaged.chmod(0o644)
    damaged.write_text("")
    damaged.chmod(0o444)
    tomorrow = time.time() + 86400
    os.utime(damaged, (tomorrow, tomorrow))
    os.utime(damaged.parent, (tomorrow, tomorrow))
    (cas.store / "boot").write_text('["an-earlier-boot", 0]')

    cas("put", "b:t:12345678", make(work / "other", {"file": "content", "more": "x"}))

    layer = Path(cas.json("show", "b")["layer"])
    assert (layer / "file").read_text() == "content"


def test_damaged_manifest_is_reported_and_not_followed(cas: Cas, work: Path) -> None:
    cas("put", "a:t:12345678", make(work / "tree", {"file": "content"}))
    (path,) = (cas.store / "manifests").iterdir()
    good = path.read_bytes()
    for bad in (good[:-5], good + b"x\0d\0", good.replace(b"file", b"fil\xe5"), b""):
        path.chmod(0o644)
        path.write_bytes(bad)
        cas("files", "a", code=6)
        done = cas("mount", "--strategy", "hardlink", "target", "a", code=6)
        assert "does not match the digest of tree" in done.stderr
        assert not (work / "target").exists()
