"""Garbage collection: unused artifacts are removed, used ones are kept, space is freed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cas.disk.counters import DAY_NS
from cas.disk.layout import artifact_path
from cas.disk.leases import Lease
from cas.disk.scratch import scratch
from cas.model.manifest import Digest, Manifest
from cas.store import Store
from tests.helpers.index import change_record
from tests.helpers.running import strace, waiting_run
from tests.helpers.support import (
    CAS,
    ROOT,
    Cas,
    disk_of,
    is_estimate,
    make,
    objects_of,
    shown_on_terminal,
    snapshot,
    sound,
    tidy,
)

pytestmark = pytest.mark.per_user

MIB = 1 << 20
NOW = ("--grace", "0s")


def _put(cas: Cas, work: Path, name: str, *, size: int = 0, files: int = 1) -> None:
    """Put NAME:t:HASH with some contents of its own, and one that all share."""
    tree = make(work / "trees" / name, {"usr/shared": "shared", "usr/l@": "x" * 100})
    for number in range(files):
        (tree / f"usr/{number}").write_bytes(name.encode() + bytes(size) + b"%d" % number)
    recipe, _, rest = name.partition(":")
    cas("put", f"{recipe}:{rest or 't:12345678'}", tree)


def _age(cas: Cas, days: dict[str, float]) -> None:
    """Make artifacts look as if they had been put and last used so many days ago."""
    with Store(cas.store) as store:
        for name, age in days.items():
            artifact = store.resolve(name)
            moment = time.time_ns() - int(age * DAY_NS)
            path = os.path.join(store.path, artifact_path(artifact.signature))
            os.utime(path, ns=(moment, moment), follow_symlinks=False)
            change_record(store, artifact, created_ns=moment)


def _left(cas: Cas) -> set[str]:
    return {artifact["recipe"] for artifact in cas.json("ls")}


def _would_go(cas: Cas, *options: str) -> list[str]:
    return [
        one["id"].split(":")[0] for one in cas.json("gc", "--dry-run", *options)["would_remove"]
    ]


@pytest.fixture
def aged(cas: Cas, work: Path) -> None:
    """Artifacts old, older, new and newest, of 40, 50, 2 and 0 days."""
    for name in ("old", "older", "new", "newest"):
        _put(cas, work, name, size=MIB)
    _age(cas, {"old": 40, "older": 50, "new": 2})


def test_gc_without_limits_keeps_all_artifacts(cas: Cas, aged: None) -> None:
    done = cas("gc", *NOW)

    assert done.stdout == "0 artifacts removed, 0 bytes freed\n"
    assert _left(cas) == {"old", "older", "new", "newest"}
    tidy(cas.store)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--max-age=30d"], {"new", "newest"}),
        (["--max-age=7w"], {"new", "newest", "old"}),
        (["--keep-last=1"], {"new", "newest", "old", "older"}),
        (["--keep-from=live"], {"old", "newest"}),
        (["--keep-from=live", "--grace=0s"], {"old"}),
        (["--keep-from=live", "--max-age=30d"], {"old", "new", "newest"}),
        (["--max-age=0s", "--grace=72h"], {"new", "newest"}),
        (["--max-age=0s", "--grace=0s"], set()),
        (["--max-size=0", "--grace=0s"], set()),
        (["--max-size=0", "--max-age=30d"], {"new", "newest"}),
        (["--max-size=1G"], {"new", "newest", "old", "older"}),
    ],
)
def test_gc_keeps_what_any_limit_keeps(
    cas: Cas, work: Path, aged: None, options: list[str], left: set[str]
) -> None:
    (work / "live").write_text("# what the build uses\nold:t:12345678\n\nunknown:t:12345678\n")
    expected = [name for name in ("older", "old", "new", "newest") if name not in left]

    assert _would_go(cas, *options) == expected
    assert _left(cas) == {"old", "older", "new", "newest"}
    removed = cas.json("gc", *options)["removed"]

    assert removed == [f"{name}:t:12345678" for name in expected]
    assert _left(cas) == left
    sound(cas.store)
    tidy(cas.store)


def test_keep_last_keeps_the_newest_of_each_recipe_arch_and_task(cas: Cas, work: Path) -> None:
    names = ["a:t:11111111", "a:t:22222222", "a:t:33333333", "a:x86:t:44444444", "a:u:55555555"]
    for name in names:
        _put(cas, work, name)
    _age(cas, {name: 10 - number for number, name in enumerate(names)})

    gone = cas.json("gc", "--keep-last", "1", *NOW)["removed"]

    assert gone == names[:2]


def _besides(store: Path) -> int:
    """Return the bytes of disk that `disk_of` leaves out."""
    log = store / "log"
    paths = (store / "index/data.mdb", log, *log.iterdir())
    return sum(path.stat().st_blocks * 512 for path in paths)


def test_max_size_removes_the_least_recently_used(cas: Cas, work: Path) -> None:
    ages = {f"r{number}": float(20 - number) for number in range(10)}
    for name in ages:
        _put(cas, work, name, size=MIB, files=2)
    _age(cas, ages)
    before = disk_of(cas.store)
    limit = before - 7 * MIB + _besides(cas.store)

    plan = cas.json("gc", "--dry-run", f"--max-size={limit}")
    assert is_estimate(plan["store_bytes"], before + _besides(cas.store), 10)
    assert [one["id"][:2] for one in plan["would_remove"]] == ["r0", "r1", "r2", "r3"]
    freed = cas.json("gc", f"--max-size={limit}")["freed_bytes"]

    assert disk_of(cas.store) <= limit
    assert is_estimate(plan["frees_bytes"], freed, 4)
    assert is_estimate(freed, before - disk_of(cas.store), 4)
    assert _left(cas) == set(ages) - {"r0", "r1", "r2", "r3"}
    tidy(cas.store)


def test_unreachable_max_size_is_reported(cas: Cas, aged: None) -> None:
    cas("pin", "old")

    done = cas("gc", "--max-size", "1M")

    assert _left(cas) == {"old", "newest"}
    assert "are still in the store: they are in use, pinned, in their grace time" in done.stderr
    assert "note" not in cas("gc", "--max-size", "1G").stderr


def test_shared_contents_count_once_and_are_kept(cas: Cas, work: Path) -> None:
    content = "x" * MIB
    for name in ("a", "b"):
        cas("put", f"{name}:t:12345678", make(work / name, {"same": content, name: name}))
    cas("put", "twin:t:12345678", work / "b")

    plan = cas.json("gc", "--dry-run", "--max-age=0s", *NOW)["would_remove"]
    frees = {one["id"][0]: one["frees_bytes"] for one in plan}

    assert sorted(frees.values())[-1] >= MIB > sum(sorted(frees.values())[:-1])
    cas("pin", "a")
    before = disk_of(cas.store)
    freed = cas.json("gc", "--max-age=0s", *NOW)["freed_bytes"]
    assert is_estimate(freed, before - disk_of(cas.store), 2)
    assert freed < MIB
    sound(cas.store)
    tidy(cas.store)


def test_pinned_mounted_and_leased_artifacts_are_kept(cas: Cas, work: Path) -> None:
    for name in ("pinned", "mounted", "leased", "planned", "idle"):
        _put(cas, work, name)
    _age(cas, dict.fromkeys(("pinned", "mounted", "leased", "planned", "idle"), 9.0))
    cas("pin", "pinned")
    cas("mount", "target", "mounted")
    cas("plan", "elsewhere", "planned")  # in use for the grace time
    seen = snapshot(work / "target")
    with waiting_run(cas, "--sysroot", "s=leased", then="cat s/usr/shared") as task:
        assert cas.json("gc", "--max-age=1h")["removed"] == ["idle:t:12345678"]
        assert cas.json("gc", "--max-age=0s", *NOW)["removed"] == ["planned:t:12345678"]
        assert _left(cas) == {"pinned", "mounted", "leased"}
        assert task.communicate("\n")[0] == "shared"
    assert snapshot(work / "target") == seen
    cas("umount", "target")
    assert cas.json("gc", "--max-age=0s", *NOW)["removed"] == [
        "mounted:t:12345678",
        "leased:t:12345678",
    ]
    cas("unpin", "pinned")
    cas("gc", "--max-age=0s", *NOW)
    tidy(cas.store)


def test_lease_of_a_killed_process_holds_nothing(cas: Cas, work: Path) -> None:
    _put(cas, work, "a")
    with waiting_run(cas, "--sysroot", "s=a") as task:
        assert cas.json("gc", "--max-age=0s", *NOW)["removed"] == []
        task.kill()
        task.wait()
    deadline = time.monotonic() + 30  # the kernel ends the rest of its processes meanwhile
    while not cas.json("gc", "--max-age=0s", *NOW)["removed"]:
        assert time.monotonic() < deadline
    tidy(cas.store)


def _used(cas: Cas, name: str) -> float:
    used: int = cas.json("show", name)["last_used_ns"]
    return (time.time_ns() - used) / DAY_NS


def test_mount_run_plan_and_put_count_as_use(cas: Cas, work: Path) -> None:
    uses = {
        "mounted": ["mount", "target", "mounted"],
        "ran": ["run", "--sysroot", "s=ran", "--", "true"],
        "planned": ["plan", "elsewhere", "planned"],
        "updated": ["update", "target", "updated"],
        "again": ["put", "again:t:12345678", "trees/again"],
    }
    for name in (*uses, "idle"):
        _put(cas, work, name)
    _age(cas, dict.fromkeys((*uses, "idle"), 9.0))
    index = (cas.store / "index/data.mdb").stat().st_mtime_ns
    for command in uses.values():
        cas(*command)

    assert (cas.store / "index/data.mdb").stat().st_mtime_ns == index
    assert [name for name in uses if _used(cas, name) > 0.01] == []
    assert 8.9 < _used(cas, "idle") < 9.1
    cas("umount", "target")


def test_dry_run_lists_candidates_with_reasons_and_changes_nothing(cas: Cas, aged: None) -> None:
    before = snapshot(cas.store)

    done = cas("gc", "--dry-run", "--max-age=30d", "--keep-last=1", "--max-size=3G")
    assert done.stdout == "0 artifacts would be removed, 4 kept; 0 bytes would be freed\n"
    header, older, old, total = cas("gc", "--dry-run", "--max-age=30d").stdout.splitlines()

    assert header.split() == ["ID", "SIZE", "LAST", "USE", "REASON"]
    assert older.startswith("older:t:12345678  1.0 MiB  50 days ago")
    assert older.endswith("  not used for 50 days")
    assert old.endswith("  not used for 40 days")
    assert total == "2 artifacts would be removed, 2 kept; 2.0 MiB would be freed"
    assert snapshot(cas.store) == before


def test_keep_list_takes_abbreviations_and_standard_input(cas: Cas, work: Path, aged: None) -> None:
    cas("gc", "--keep-from", "-", "--dry-run", input="old\nnewest@5\n")
    gone = json.loads(
        cas("gc", "--json", "--keep-from", "-", *NOW, input="ol*", code=2).stdout or "0"
    )
    assert gone == 0
    assert "not an ID: 'ol*'" in cas("gc", "--keep-from=-", input="ol*", code=2).stderr
    assert (
        "so everything would be removed"
        in cas("gc", "--keep-from=-", input="# no\n", code=8).stderr
    )
    assert "No such file" in cas("gc", "--keep-from=nowhere", code=1).stderr
    assert len(_left(cas)) == 4
    cas("gc", "--keep-from", "-", *NOW, input="old\nnewest@5\n")
    assert _left(cas) == {"old", "newest"}


@pytest.mark.parametrize(
    "options",
    [["--max-age=30"], ["--max-age=d"], ["--max-size=5X"], ["--keep-last=0"], ["--grace=-1h"]],
)
def test_malformed_amounts_are_usage_errors(cas: Cas, options: list[str]) -> None:
    assert "Invalid value for" in cas("gc", *options, code=2).stderr


def test_removal_shows_its_progress_on_a_terminal_only(cas: Cas, work: Path, aged: None) -> None:
    shown = shown_on_terminal(cas, "gc", "--max-age=30d")

    assert "Removing" in shown
    assert "100%" in shown
    assert cas("gc", "--max-age=0s", *NOW).stderr == ""


def _object(cas: Cas) -> None:
    path = cas.store / "objects/ab" / ("c" * 62)
    path.write_text("nobody's")
    path.chmod(0o444)


def _layer(cas: Cas) -> None:
    manifest = Manifest({b"d": b"d"}).encode()
    tree = Digest("ab" * 32)
    (cas.store / "manifests" / tree).write_bytes(manifest)
    make(cas.store / "layers" / tree, {"d/": None})


def _link(cas: Cas) -> None:
    (cas.store / "artifacts/gone").mkdir()
    (cas.store / "artifacts/gone/t:12345678").symlink_to("../../layers/x")


def _recipe(cas: Cas) -> None:
    (cas.store / "artifacts/empty").mkdir()


def _temporary(cas: Cas) -> None:
    make(cas.store / "tmp/put-1-abc", {"layer/usr/x": "x", "layer/usr/y": "y"})
    (cas.store / "tmp/put-1-abc/layer/usr").chmod(0o555)
    (cas.store / "tmp/lease-2-abc").write_text("{")


def _lease(cas: Cas) -> None:
    (cas.store / "leases/1-abc").write_text("{}")


def _checked(cas: Cas) -> None:
    cas("put", "x:t:12345678", make(cas.directory / "x", {"x": "1"}))
    cas("plan", "target", "kept", "x")
    assert len(os.listdir(cas.store / "known")) == 1
    cas("rm", "x")


@pytest.mark.parametrize(
    "leave",
    [_object, _layer, _link, _recipe, _temporary, _lease, _checked],
    ids=lambda f: f.__name__,
)
def test_unreachable_leftovers_are_removed(
    cas: Cas, work: Path, leave: Callable[[Cas], None]
) -> None:
    _put(cas, work, "kept")
    cas("gc")
    before = disk_of(cas.store / "objects"), snapshot(cas.store)
    leave(cas)
    time.sleep(0.02)  # a tick of the clock that file times are taken from
    with_it = disk_of(cas.store)

    freed = cas.json("gc")["freed_bytes"]

    # Any command may delete a stale lease; links and their directories are not counted.
    uncounted = leave in (_lease, _link, _recipe)
    assert freed == with_it - disk_of(cas.store) or uncounted
    after = disk_of(cas.store / "objects"), snapshot(cas.store)
    assert after[0] == before[0]
    for found in (before[1], after[1]):
        del found[b"index/data.mdb"]
        for name in [name for name in found if name.startswith(b"log/")]:
            del found[name]
    assert after[1] == before[1]
    sound(cas.store)


def test_merged_layers_of_removed_artifacts_are_removed(cas: Cas, work: Path) -> None:
    with Store(cas.store, create=True) as store:
        for number in range(502):
            store.put(f"r{number}:t:12345678", make(work / "tree", {f"f{number}": str(number)}))
            (work / f"tree/f{number}").unlink()
        names = [f"r{number}" for number in range(502)]
        store.compose(names).close()
    assert len(os.listdir(cas.store / "layers")) == 503
    cas("pin", "r400")
    cas("gc")
    assert len(os.listdir(cas.store / "layers")) == 503

    # Not used for long, it is not worth its space, though it could be used again.
    long_ago = time.time() - 31 * 86400
    for path in (cas.store / "known").iterdir():
        os.utime(path, (long_ago, long_ago))
    with Store(cas.store) as store:
        store.compose(names).close()
    cas("gc", "--max-age=30d", *NOW)
    assert len(os.listdir(cas.store / "layers")) == 503
    assert len(os.listdir(cas.store / "known")) == 2
    for path in (cas.store / "known").iterdir():
        os.utime(path, (long_ago, long_ago))
    cas("gc", "--max-age=30d", *NOW)
    assert len(os.listdir(cas.store / "layers")) == 502
    assert os.listdir(cas.store / "known") == []
    with Store(cas.store) as store:
        store.compose(names).close()

    before = disk_of(cas.store)
    plan = cas.json("gc", "--dry-run", "--max-age=0s", *NOW)
    freed = cas.json("gc", "--max-age=0s", *NOW)["freed_bytes"]

    assert is_estimate(plan["frees_bytes"], freed, 502)
    assert is_estimate(freed, before - disk_of(cas.store), 502)
    assert os.listdir(cas.store / "known") == []
    tidy(cas.store)


def test_scratch_of_living_processes_is_kept(cas: Cas, work: Path) -> None:
    with (
        Store(cas.store, create=True) as store,
        scratch(store.fd, "test") as mine,
        Lease(store.path, (), purpose="put of something"),
    ):
        fd = os.open(b"file", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=mine.fd)
        os.close(fd)
        _object(cas)
        time.sleep(0.05)
        assert cas.json("gc")["freed_bytes"] == 0
        assert os.listdir(mine.fd) == ["file"]
        assert len(objects_of(cas.store)) == 1
    time.sleep(0.02)
    cas("gc")
    tidy(cas.store)


@pytest.fixture
def slow_put(cas: Cas, work: Path) -> Iterator[subprocess.Popen[str]]:
    """A put that takes its time after each object that it makes."""
    make(work / "tree", {f"usr/{number}": f"content {number}" for number in range(30)})
    slowly = strace("inject=linkat,link:delay_exit=40000")  # microseconds
    command = [*slowly, CAS, "--store", str(cas.store)]
    with subprocess.Popen(
        [*command, "put", "slow:t:12345678", str(work / "tree")], stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


def test_put_beside_gc_loses_nothing_and_does_not_restart(
    cas: Cas, work: Path, slow_put: subprocess.Popen[str]
) -> None:
    rounds = 0
    most = 0
    while slow_put.poll() is None:
        if (cas.store / "format").exists():
            cas("gc", "--max-age=30d")
            rounds += 1
            now = len(objects_of(cas.store))
            assert now >= most
            most = now
    assert slow_put.stderr is not None
    assert slow_put.wait() == 0, slow_put.stderr.read()
    assert rounds > 2
    sound(cas.store)
    with Store(cas.store) as store:
        assert snapshot(store.layer_path(store.resolve("slow"))) == snapshot(work / "tree")


def test_forced_rm_keeps_mounted_files_readable(cas: Cas, work: Path) -> None:
    _put(cas, work, "a")
    cas("mount", "target", "a")
    cas("pin", "a")
    seen = snapshot(work / "target")
    count = f"{sys.executable} -c 'import os; print(len(os.listdir(\"s/usr\")))'"
    with waiting_run(cas, "--sysroot", "s=a", then=count) as task:
        assert "in use by" in cas("rm", "a", code=7).stderr
        cas("rm", "--force", "a")
        assert cas.json("ls") == cas.json("pins") == []
        cas("gc", *NOW)
        assert snapshot(work / "target") == seen
        assert task.communicate("\n")[0] == "3\n"
    cas("umount", "target")
    cas("gc", *NOW)
    tidy(cas.store)
    assert objects_of(cas.store) == []


def test_pins_are_listed_with_reasons_and_hold_until_unpinned(cas: Cas, work: Path) -> None:
    for name in ("a", "b"):
        _put(cas, work, name)
    assert cas("pin", "a", "--reason", "release 4.2\nfinal").stdout == "pinned a:t:12345678\n"
    cas("pin", "b")

    header, first, second = cas("pins").stdout.splitlines()
    assert header.split() == ["ID", "SINCE", "REASON"]
    assert first.startswith("a:t:12345678  just now")
    assert "release 4.2" in first
    assert second.startswith("b:t:12345678  just now")
    assert cas.json("show", "a")["pinned"] is True
    assert "a:t:12345678 is pinned" in cas("rm", "a", code=7).stderr
    assert cas("unpin", "a").stdout == "unpinned a:t:12345678\n"
    assert [pin["id"] for pin in cas.json("pins")] == ["b:t:12345678"]
    assert "not pinned" in cas("unpin", "a", code=3).stderr
    assert "no such ID" in cas("pin", "nothing", code=3).stderr
    cas("rm", "a")


def test_damaged_pin_still_holds_and_can_be_removed(cas: Cas, work: Path) -> None:
    _put(cas, work, "a")
    cas("pin", "a")
    (cas.store / "pins/a:t:12345678").write_text("{")

    assert "is corrupt" in cas("pins", code=6).stderr
    cas("gc", "--max-age=0s", *NOW)
    assert _left(cas) == {"a"}
    cas("unpin", "a")
    assert cas.json("pins") == []


def test_gc_needs_a_writable_store(cas: Cas, work: Path) -> None:
    assert "there is no store" in cas("gc", code=1).stderr
    _put(cas, work, "a")
    if not ROOT:
        (cas.store / "tmp").chmod(0o555)
        assert "no write permission for the store" in cas("gc", code=1).stderr
        (cas.store / "tmp").chmod(0o755)


def test_use_within_the_grace_time_needs_no_note(cas: Cas, work: Path) -> None:
    _put(cas, work, "a")
    _age(cas, {"a": 50 / 86400})
    cas("run", "--sysroot", "s=a", "--", "true")
    assert _used(cas, "a") > 40 / 86400  # a use within the minute is not noted

    assert _would_go(cas, "--max-age=0s", "--grace=45s") == []
    _age(cas, {"a": 200 / 86400})
    assert _would_go(cas, "--max-age=0s", "--grace=45s") == ["a"]


def test_keep_list_that_keeps_nothing_is_refused(cas: Cas, work: Path) -> None:
    _put(cas, work, "a")
    _put(cas, work, "b")
    (work / "live").write_text("zlib:t:12345678\n")

    refused = cas("gc", "--keep-from", "live", *NOW, code=8).stderr
    assert "no ID to keep is in the store" in refused
    assert _left(cas) == {"a", "b"}
    (work / "live").write_text("zlib:t:12345678\na:t:12345678\n")
    assert "1 of the IDs" in cas("gc", "--keep-from", "live", *NOW).stderr
    assert _left(cas) == {"a"}


def test_unlockable_scratch_is_swept(cas: Cas, work: Path) -> None:
    _put(cas, work, "a")
    (cas.store / "tmp/dangling").symlink_to("nowhere")
    os.mkfifo(cas.store / "tmp/fifo")

    cas("gc")

    assert os.listdir(cas.store / "tmp") == []
    sound(cas.store)


def test_truncated_mount_record_is_ignored_and_collected(cas: Cas, work: Path) -> None:
    _put(cas, work, "a")
    cas("mount", "target", "a")
    record = next((cas.store / "mounts").iterdir())
    whole = record.read_bytes()
    subprocess.run(["umount", work / "target"], check=False, capture_output=True)
    record.write_bytes(b"")
    for command in ("mounts", "gc", "verify"):
        cas(command, code=6)  # it is of this boot, and a mount may be there

    os.utime(record, (10**9, 10**9))
    assert cas.json("mounts") == []
    cas("verify")
    cas("gc")
    assert not record.exists()
    record.write_bytes(whole)
    cas("umount", "target")
    cas("rm", "a")
    tidy(cas.store)


def test_use_is_noted_for_cached_compositions(cas: Cas, work: Path) -> None:
    for name in ("a", "b"):
        _put(cas, work, name)
    (work / "trees/b/usr/shared").write_text("other")
    cas("put", "--replace", "b:t:12345678", work / "trees/b")
    _age(cas, {"a": 40, "b": 40})
    cas("plan", "target", "a", "b", "--conflicts", "error", code=4)
    assert _used(cas, "a") > 39

    cas("run", "--sysroot", "s=a,b", "--", "true")

    assert [name for name in "ab" if _used(cas, name) > 0.01] == []


def test_use_of_a_merged_composition_is_noted_at_once(cas: Cas, work: Path) -> None:
    with Store(cas.store, create=True) as store:
        for number in range(501):
            store.put(f"r{number}:t:12345678", make(work / "tree", {f"f{number}": str(number)}))
            (work / f"tree/f{number}").unlink()
    _age(cas, {"r0": 40, "r500": 40})
    with Store(cas.store) as store:
        store.compose([f"r{number}" for number in range(501)]).close()

    assert [name for name in ("r0", "r500") if _used(cas, name) > 0.01] == []


def test_damaged_record_of_a_linked_tree_is_not_collected(cas: Cas, work: Path) -> None:
    _put(cas, work, "a")
    cas("mount", "target", "a", "--strategy", "copy")
    record = next((cas.store / "mounts").iterdir())
    whole = record.read_bytes()
    record.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    os.utime(record, (10**9, 10**9))

    for command in (["verify"], ["gc"], ["mounts"], ["rm", "a"]):
        cas(*command, code=6)
    assert record.exists()
    record.write_bytes(whole)
    cas("umount", "target")
