"""A store that a group of users shares: each can do all, and others can only read."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cas.gc.policy import Policy
from cas.store import Store
from tests.helpers.sampling import fault_numbers
from tests.helpers.stress import RECIPES, VERSIONS, tree_of
from tests.helpers.support import (
    ROOT,
    Cas,
    disk_of,
    is_estimate,
    killed,
    make,
    objects_of,
    snapshot,
    sound,
    tidy,
)
from tests.helpers.users import PROJECT, as_user

pytestmark = pytest.mark.skipif(not ROOT, reason="only root can be several users")

GROUP = 6000


@pytest.fixture
def place(work: Path) -> Path:
    """A directory that all users may write to."""
    work.chmod(0o777)
    return work


@pytest.fixture
def ann(cas: Cas, place: Path) -> Cas:
    """The command, run by the user who creates the store."""
    user = as_user(cas, 4242, GROUP)
    user("init", "--shared", "--group", str(GROUP))
    return user


@pytest.fixture
def bob(cas: Cas, ann: Cas) -> Cas:
    """The command run by another user of the group."""
    return as_user(cas, 4243, GROUP)


def _contents(tree: Path, name: str) -> Path:
    return make(tree, {"usr/common": "common" * 1000, f"usr/{name}": name, "usr/tool*": "t"})


def _seen(user: Cas, name: str, place: Path) -> object:
    user("run", "--sysroot", f"s={name}", "--", "cp", "-r", "s/.", f"seen-{name}")
    return snapshot(place / f"seen-{name}")


def test_group_member_can_run_every_command(ann: Cas, bob: Cas, place: Path) -> None:
    tree, other = _contents(place / "one", "a"), _contents(place / "two", "b")
    ann("put", "a:t:12345678", tree)
    bob("put", "b:t:12345678", other)
    bob("put", "c:t:12345678", tree)  # ann has stored this tree already

    assert _seen(bob, "a", place) == _seen(ann, "c", place) == snapshot(tree)
    assert _seen(ann, "b", place) == snapshot(other)
    ann("verify")
    bob("verify", "--quick")
    sound(ann.store)
    bob("pin", "a", "--reason", "mine")
    assert "pinned" in ann("rm", "a", code=7).stderr
    ann("unpin", "a")
    bob("rm", "a", "c")
    ann("gc", "--max-age=0s", "--grace=0s")
    assert ann.json("ls") == []
    tidy(ann.store)
    assert objects_of(ann.store) == []


def test_contents_are_stored_once_for_each_user(ann: Cas, bob: Cas, place: Path) -> None:
    ann("put", "a:t:12345678", _contents(place / "1", "a"))
    for name in ("b", "c", "d"):
        bob("put", f"{name}:t:12345678", _contents(place / name, name))

    objects = sorted(Path(os.fsdecode(path)) for path in objects_of(ann.store))
    common = [path for path in objects if path.stat().st_size == 6000]
    assert [(path.stat().st_uid, path.stat().st_nlink) for path in common] == [(4242, 2), (4243, 4)]
    assert common[1].name == common[0].name + ".4243"
    assert [path.stat().st_nlink for path in objects if path.suffix == ".x"] == [2]
    assert [stat.S_IMODE(path.stat().st_mode) for path in common] == [0o444, 0o444]
    sound(ann.store)


def test_gc_plan_and_du_agree_in_a_shared_store(ann: Cas, bob: Cas, place: Path) -> None:
    ann("put", "a:t:12345678", _contents(place / "1", "a"))
    for name in ("b", "c"):
        bob("put", f"{name}:t:12345678", _contents(place / name, name))
    for name in ("b", "c", "a"):
        before = disk_of(ann.store)
        keep = place / "keep"
        keep.write_text("\n".join(n for n in "abc" if n > name or (name != "a" and n == "a")))
        choice = ("--max-age=0s",) if name == "a" else ("--keep-from", keep)
        policy = (*choice, "--grace=0s")
        planned = ann.json("gc", "--dry-run", *policy)["frees_bytes"]
        freed = ann.json("gc", *policy)["freed_bytes"]
        assert is_estimate(planned, freed, 1)
        assert is_estimate(freed, before - disk_of(ann.store), 1)
    tidy(ann.store)


def test_leftovers_of_a_killed_user_are_collected_by_another(
    ann: Cas, bob: Cas, place: Path
) -> None:
    ann("put", "a:t:12345678", _contents(place / "1", "a"))
    tree = _contents(place / "2", "b")
    for call in ("link,linkat", "rename,renameat,renameat2", "mkdir,mkdirat"):
        hits = 0
        for number in fault_numbers():
            if not killed(bob, "put", "b:t:12345678", str(tree), call=call, number=number):
                break
            hits += 1
            ann("gc")
            tidy(ann.store)
        assert hits > 0
        ann("rm", "b")
    sound(ann.store)


def test_merged_layer_of_several_users_is_correct(ann: Cas, bob: Cas, place: Path) -> None:
    names = [f"r{number}:t:12345678" for number in range(502)]
    with Store(ann.store) as store:  # by root: the fastest way
        for number, name in enumerate(names):
            store.put(name, make(place / f"t/{number}", {f"f{number}": str(number % 9)}))

    bob("run", "--sysroot-from", "s=-", "--", "cp", "-r", "s/.", "seen", input="\n".join(names))

    expected = {os.fsencode(f"f{number}") for number in range(502)}
    assert snapshot(place / "seen").keys() == expected
    sound(ann.store)
    ann("gc", "--max-age=0s", "--grace=0s")
    tidy(ann.store)


def test_outsider_can_read_and_change_nothing(cas: Cas, ann: Cas, place: Path) -> None:
    tree = _contents(place / "1", "a")
    ann("put", "a:t:12345678", tree)
    eve = as_user(cas, 4244)

    def state() -> object:
        paths = [ann.store, *sorted(ann.store.rglob("*"))]
        return [(path, path.lstat().st_mode, path.lstat().st_ino) for path in paths]

    before = state()
    assert eve.json("has", "a:t:12345678")
    assert [artifact["id"] for artifact in eve.json("ls")] == ["a:t:12345678"]
    assert len(eve.json("files", "a")) == 4
    eve("verify")
    assert "no write permission for the store" in eve("mount", "t", "a", code=1).stderr
    assert "no write permission" in eve("run", "--sysroot", "t=a", "--", "true", code=125).stderr
    for command in (
        ("put", "e:t:12345678", tree),
        ("rm", "a"),
        ("gc",),
        ("pin", "a"),
        ("sync",),
        ("rebuild-index",),
        ("init", "--shared"),  # which says so in other words
    ):
        done = eve(*command, code=8 if command[0] == "init" else 1)
        assert str(ann.store) in done.stderr or command[0] == "init", (command, done)
    assert state() == before


def test_existing_store_can_be_shared(cas: Cas, place: Path) -> None:
    ann, bob = as_user(cas, 4242, GROUP), as_user(cas, 4243, GROUP)
    ann("put", "a:t:12345678", _contents(place / "1", "a"))
    assert ann.json("init") == {"store": str(cas.store), "made": False, "group": None}
    assert bob("ls", code=1).stderr

    assert ann.json("init", "--shared", "--group", str(GROUP))["group"] == str(GROUP)
    bob("put", "b:t:12345678", _contents(place / "2", "b"))
    bob("rm", "a")

    ann("init", "--shared")  # files of another user are right already
    sound(ann.store)
    tidy(ann.store)


def test_sharing_needs_the_owner_and_one_of_their_groups(cas: Cas, ann: Cas, bob: Cas) -> None:
    assert "another user" in bob("init", "--shared", code=8).stderr
    assert "not in the group" in ann("init", "--shared", "--group", "6001", code=8).stderr
    assert "no group" in ann("init", "--shared", "--group", "nobody-has-this", code=2).stderr
    assert "--shared" in ann("init", "--group", str(GROUP), code=2).stderr


def test_set_user_id_bit_of_an_object_is_never_served(ann: Cas, bob: Cas, place: Path) -> None:
    ann("put", "a:t:12345678", _contents(place / "1", "a"))
    (tool,) = (path for path in objects_of(ann.store) if path.endswith(b".x"))
    os.chmod(tool, 0o4555)

    script = "findmnt -no OPTIONS -T s/usr/tool"
    assert "nosuid" in bob("run", "--sysroot", "s=a", "--", "sh", "-c", script).stdout
    bob("mount", "target", "a")
    assert stat.S_IMODE((place / "target/usr/tool").stat().st_mode) == 0o555
    bob("umount", "target")
    assert "has mode 4555" in bob("verify", "--quick", code=6).stdout


def test_writable_sysroot_of_foreign_files_works(ann: Cas, bob: Cas, place: Path) -> None:
    ann("put", "a:t:12345678", _contents(place / "1", "a"))
    script = "rm s/usr/a; echo new >s/usr/b; ls s/usr"
    done = bob("run", "--rw", "--sysroot", "s=a", "--", "sh", "-c", script)
    assert done.stdout.split() == ["b", "common", "tool"]
    assert "owner is unknown in this user namespace" in done.stderr
    with Store(ann.store) as store:
        assert store.plan_gc(Policy()) is not None
    sound(ann.store)


def test_sysroot_in_a_private_directory_is_in_use(ann: Cas, bob: Cas, place: Path) -> None:
    tree = _contents(place / "1", "a")
    ann("put", "a:t:12345678", tree)
    (place / "private").mkdir(mode=0o700)
    os.chown(place / "private", 4242, 4242)
    ann("mount", "private/target", "a")

    bob("verify")
    bob("gc", "--max-age=0s", "--grace=0s")
    assert [mount["state"] for mount in bob.json("mounts")] == ["alive"]
    assert "in use" in bob("rm", "a", code=7).stderr
    assert snapshot(place / "private/target") == snapshot(tree)
    ann("umount", "private/target")
    bob("rm", "a")
    tidy(ann.store)


def test_concurrent_users_lose_nothing(ann: Cas, bob: Cas, place: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    for number in range(RECIPES):
        for version in range(VERSIONS):
            tree_of(place / "trees", number, version)
    worker = ["env", f"PYTHONPATH={PROJECT}", sys.executable, "-m", "tests.helpers.stress"]
    workers = [
        subprocess.Popen(
            [*user.wrapper, *worker, str(seed + number), "25", str(ann.store), str(place)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, user in enumerate((ann, bob, ann, bob))
    ]
    errors = [worker.communicate()[1] for worker in workers]

    assert [worker.returncode for worker in workers] == [0] * 4, "\n".join(errors)
    bob("gc")
    sound(ann.store)
    ann("gc", "--max-age=0s", "--grace=0s")
    tidy(ann.store)
    assert objects_of(ann.store) == []


def test_repair_continues_past_foreign_files(ann: Cas, bob: Cas, place: Path) -> None:
    ann("put", "a:t:12345678", _contents(place / "a", "a"))
    bob("put", "b:t:12345678", _contents(place / "b", "b"))
    for user, name in ((ann, "a"), (bob, "b")):
        layer = Path(user.json("show", name)["layer"])
        (layer / "usr" / name).touch()

    done = bob.json("verify", "--repair", code=6)
    assert [text.split()[0] for text in sorted(done["repaired"])] == ["left", "restored"]
    ann("verify", "--repair")
    assert bob("verify").stdout == "no faults found\n"


def test_recreated_directories_are_shared(ann: Cas, bob: Cas, cas: Cas, place: Path) -> None:
    ann("put", "a:t:12345678", _contents(place / "a", "a"))
    for user in (bob, cas):  # the second is root
        for name in ("lock", "pins", "known"):
            path = ann.store / name
            path.unlink() if path.is_file() else path.rmdir()
        user("init")
        for other in (ann, bob):
            other("pin", "a")
            other("unpin", "a")
            other("put", "a:t:12345678", place / "a")
            assert other("verify").stdout == "no faults found\n"
