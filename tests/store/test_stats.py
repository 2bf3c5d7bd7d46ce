"""`cas stats`: sizes, savings and use of a store, compared with the disk."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cas.disk.counters import DAY_NS, FIRST_DAY, Counts, add_counts, read_counts
from cas.store import Store
from cas.system.progress import Progress
from tests.helpers.support import ROOT, Cas, disk_of, is_estimate, killed, make
from tests.helpers.users import as_user

ONE, TWO = "one:x86:do_x:12345678", "two:do_x:12345678"
THREE = "two:do_y:12345678"
_TODAY = -1
NOW = ("--grace=0s",)


@pytest.fixture
def filled(cas: Cas, work: Path) -> Cas:
    """A store with three artifacts, two of which share a content."""
    shared = os.urandom(30_000).hex()
    cas("put", ONE, make(work / "one", {"a/shared": shared, "b": "1" * 9000, "c@": "b"}))
    cas("put", TWO, make(work / "two", {"shared": shared, "d": "2" * 5000}))
    cas("put", THREE, make(work / "three", {"e/": None, "e/f*": "3"}))
    return cas


def _counts(cas: Cas) -> Any:
    return cas.json("stats")["counts"]


def _counted(before: Any, after: Any) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def test_stats_sizes_match_the_store(filled: Cas) -> None:
    listed = filled.json("ls")
    objects = [p for p in (filled.store / "objects").rglob("*") if p.is_file()]

    stats = filled.json("stats")

    assert (stats["artifacts"], stats["trees"], stats["contents"]) == (3, 3, 4)
    assert stats["files"] == 5 == sum(artifact["files"] for artifact in listed)
    assert stats["bytes"] == 134_001 == sum(artifact["bytes"] for artifact in listed)
    assert stats["content_bytes"] == 74_001 == sum(p.stat().st_size for p in objects)
    assert stats["saved_bytes"] == 60_000
    du = subprocess.check_output(["du", "-s", "-B1", filled.store], text=True)
    assert stats["disk_bytes"] == int(du.split()[0])
    text = filled("stats").stdout
    assert "3, of 3 different trees" in text
    assert "saved by sharing 58.6 KiB" in text


def test_group_shares_add_up_to_the_total(filled: Cas) -> None:
    whole = filled.json("du", ONE, TWO, THREE)
    for by, names in (
        ("recipe", {"one", "two"}),
        ("arch", {"x86", "-"}),
        ("task", {"do_x", "do_y"}),
    ):
        groups = filled.json("stats", "--by", by)["groups"]

        assert {group["name"] for group in groups} == names
        assert sum(group["artifacts"] for group in groups) == 3
        assert sum(group["share_bytes"] for group in groups) == whole["disk_bytes"]
        for group in groups:
            assert group["own_bytes"] <= group["share_bytes"] <= group["disk_bytes"]
            assert abs(time.time_ns() - group["last_used_ns"]) < DAY_NS
    one, two = sorted(filled.json("stats", "--by", "recipe")["groups"], key=lambda g: g["name"])
    assert one["disk_bytes"] - one["own_bytes"] == 60_000 // 4096 * 4096 + 4096
    assert one["share_bytes"] - one["own_bytes"] == two["share_bytes"] - two["own_bytes"]
    assert filled.json("stats")["groups"] is None


def test_has_counts_hits_and_misses(filled: Cas) -> None:
    before = _counts(filled)

    filled("has", ONE, TWO)
    filled("has", ONE, "four:do_x:12345678", code=3)

    assert _counted(before, _counts(filled)) == {"has_hits": 3, "has_misses": 1}


@pytest.mark.per_user
def test_sysroots_count_hits_and_misses(filled: Cas, work: Path) -> None:
    before = _counts(filled)

    filled("run", "--sysroot", "s=one,two:do_x", "--", "true")
    filled("mount", work / "m", ONE)
    filled("update", work / "m", ONE, TWO)
    filled("umount", work / "m")
    filled("mount", work / "m", ONE, "four", "five", code=3)
    filled("run", "--sysroot", "s=four", "--", "true", code=125)

    counted = _counted(before, _counts(filled))
    assert (counted["mount_hits"], counted["mount_misses"]) == (2 + 1 + 2, 3)
    # Their entries: a, a/shared, b, c; and shared, d. An ordinary user's mount is linked.
    overlaid = (3, 6 + 4 + 6) if ROOT else (1, 6)
    assert (counted["overlays"], counted["entries"]) == overlaid


def test_plan_counts_when_mounted(filled: Cas, work: Path) -> None:
    plan = filled("plan", "--private", "--json", work / "s", ONE, TWO).stdout
    for command in (["plan", work / "s", ONE], ["export", ONE, "out"], ["which", "b", ONE]):
        filled(*command)
    before = _counts(filled)
    code = (
        "import mounter, sys\n"
        "plan = mounter.Plan.load(sys.stdin.read())\n"
        "with mounter.held(plan):\n"
        "    mounter.run_plans(['true'], [plan])\n"
        "mounter.enter([plan])\n"
    )

    subprocess.run([sys.executable, "-c", code], input=plan, text=True, check=True)

    counted = {"mount_hits": 4, "overlays": 2, "entries": 12}
    assert _counted(before, _counts(filled)) == counted
    assert before == dict.fromkeys(before, 0)


def test_plan_without_entries_can_be_mounted(filled: Cas, work: Path) -> None:
    import mounter

    document = filled.json("plan", "--private", work / "s", ONE)
    del document["entries"]

    assert mounter.Plan.decode(document).entries == 0


def test_concurrent_counts_are_complete(cas: Cas) -> None:
    cas("init")
    code = (
        "import os, sys; from cas.disk.counters import Counts, add_counts\n"
        "for _ in range(500): add_counts(os.fsencode(sys.argv[1]), Counts(has_hits=1, entries=2))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, cas.store]) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4

    counts = _counts(cas)

    assert (counts["has_hits"], counts["entries"], counts["has_misses"]) == (2000, 4000, 0)


def test_daily_counts_match_the_day(filled: Cas) -> None:
    filled("rm", THREE)
    filled("has", ONE)

    days = filled.json("stats", "--days", "3")["days"]

    today = days[_TODAY]
    assert [len(days), today["put"], today["gone"]] == [3, 3, 1]
    assert today["date"] == time.strftime("%Y-%m-%d", time.gmtime())
    assert today["put_bytes"] > today["freed_bytes"] > 0
    assert today["counts"]["has_hits"] == 1
    filled("rm", ONE, TWO)
    today = filled.json("stats", "--days", "1")["days"][_TODAY]
    assert is_estimate(today["put_bytes"], today["freed_bytes"], 3)
    lines = filled("stats").stdout.splitlines()
    assert len([line for line in lines if line.startswith("20")]) == 1  # quiet days are left out


def test_daily_counts_are_kept_apart(cas: Cas) -> None:
    cas("init")
    store = os.fsencode(cas.store)
    today = time.time_ns() // DAY_NS
    add_counts(store, Counts(has_hits=5))
    data = (cas.store / "counts").read_bytes()
    yesterday = (today - 1 - FIRST_DAY) * 64
    (cas.store / "counts").write_bytes(data[:yesterday] + data[-64:] + data[-64:])

    assert read_counts(store) == {today - 1: Counts(has_hits=5), today: Counts(has_hits=5)}
    assert read_counts(store, today) == {today: Counts(has_hits=5)}
    assert _counts(cas)["has_hits"] == 10


def test_predicted_free_space_matches_gc(filled: Cas) -> None:
    assert filled.json("stats")["gc_frees_bytes"] == 0
    (filled.store / "config.toml").write_text('[gc]\nmax_age = "0s"\ngrace = "0s"\n')
    (filled.store / "objects/00" / ("f" * 62)).write_text("left behind" * 1000)

    predicted = filled.json("stats")["gc_frees_bytes"]

    assert predicted == filled.json("gc")["freed_bytes"] > 8192
    assert filled.json("stats")["artifacts"] == 0


@pytest.mark.per_user
def test_uncountable_use_stops_nothing(filled: Cas, work: Path) -> None:
    (filled.store / "counts").unlink()
    filled("has", ONE)
    filled("run", "--sysroot", "s=one", "--", "true")
    assert set(_counts(filled).values()) == {0}
    filled("init")
    filled("has", ONE)
    assert _counts(filled)["has_hits"] == 1
    if ROOT:
        work.chmod(0o755)
        reader = as_user(filled, 4242)
        reader("has", ONE)
        assert _counts(reader)["has_hits"] == 1


def test_python_calls_are_counted_like_commands(filled: Cas) -> None:
    before = _counts(filled)
    with Store(filled.store) as store:
        (artifact, *_) = store.artifacts()
        assert store.missing([artifact.signature]) == []
    assert _counted(before, _counts(filled)) == {"has_hits": 1}


def _grown(cas: Cas) -> int:
    (today,) = cas.json("stats", "--days", "1")["days"]
    grown: int = today["put_bytes"] - today["freed_bytes"]
    return grown


def test_growth_matches_the_disk(cas: Cas, work: Path) -> None:
    cas("put", ONE, make(work / "first", {}))  # the first put of a boot writes `boot`
    cas("rm", ONE)
    before = disk_of(cas.store)
    tree = make(work / "one", {f"d/{n}": f"{n}" * (1 << n) for n in range(16)} | {"l@": "d"})
    sparse = work / "sparse"
    sparse.mkdir()
    (sparse / "x").write_text("x")
    os.truncate(sparse / "x", 50 << 20)
    archive = work / "tree.tar"
    steps: list[list[str | Path]] = [
        ["put", ONE, tree],
        ["put", TWO, tree],  # the same tree
        ["put", "--move", THREE, sparse],
        ["export", ONE, archive],
        ["put", "packed:do_x:12345678", archive],
        ["rm", THREE],
        ["put", "--replace", TWO, make(work / "two", {"new": "2" * 10_000})],
        ["rm", ONE, TWO],
        ["gc", "--max-age=0s", *NOW],
    ]
    for step in steps:
        cas(*step)
        assert is_estimate(_grown(cas), disk_of(cas.store) - before, 5), step


def test_merged_layers_count_as_growth_and_are_freed(cas: Cas, work: Path) -> None:
    with Store(cas.store, create=True) as store:
        for number in range(502):
            tree = {f"f{number}": str(number), "shared": "s" * 20_000}
            store.put(f"r{number}:t:12345678", make(work / "tree", tree))
            (work / f"tree/f{number}").unlink()
        names = [f"r{number}" for number in range(502)]
        before, grown = disk_of(cas.store), _grown(cas)
        with store.compose(names):
            held = cas.json("du", "r0")
    (usage,) = cas.json("du", "r0")["artifacts"]
    free = cas.json("du", "r0")["frees_bytes"]

    overlaps = [p for p in (cas.store / "known").iterdir() if p.name.startswith("overlaps-")]
    known = sum(path.stat().st_blocks * 512 for path in overlaps)
    assert _grown(cas) > grown
    assert is_estimate(_grown(cas) - grown, disk_of(cas.store) - before - known, 1)
    assert usage["own_bytes"] + usage["shared_bytes"] == usage["disk_bytes"]
    assert usage["shared_bytes"] >= 0
    assert held["frees_bytes"] < free  # artifacts in use are not freed
    assert is_estimate(free, cas.json("rm", "r0")["freed_bytes"], 2)


def _stray_layer(cas: Cas, work: Path) -> None:
    """Remove the record of an artifact in use, so that its layer is left over."""
    with Store(cas.store) as store, store.compose(["one"]):
        cas("rm", "--force", "one")


def _killed_put(cas: Cas, work: Path) -> None:
    tree = make(work / "large", {f"d/{n}": f"{n}" * 50_000 for n in range(20)})
    assert killed(cas, "put", "large:do_x:12345678", str(tree), call="linkat", number=25)


def _obsolete_cache(cas: Cas, work: Path) -> None:
    """Make the cached facts about a composition useless."""
    cas("run", "--sysroot", "s=one,two:do_x", "--", "true")
    cas("rm", "one")


@pytest.mark.per_user
@pytest.mark.parametrize("leave", [_stray_layer, _killed_put, _obsolete_cache])
def test_leftovers_are_counted_and_freed(
    filled: Cas, work: Path, leave: Callable[[Cas, Path], None]
) -> None:
    leave(filled, work)
    time.sleep(0.02)  # a tick of the clock that file times are taken from

    predicted = filled.json("stats")["gc_frees_bytes"]

    du = subprocess.check_output(["du", "-s", "-B1", filled.store], text=True)
    assert is_estimate(filled.json("stats")["disk_bytes"], int(du.split()[0]), 4)
    assert predicted == filled.json("gc", "--dry-run")["frees_bytes"]
    assert predicted > 0
    assert is_estimate(predicted, filled.json("gc")["freed_bytes"], 1)
    assert filled.json("stats")["gc_frees_bytes"] == 0


class _Remover(Progress):
    """Removes two artifacts at the first report of progress."""

    def __init__(self, cas: Cas) -> None:
        self._cas = cas
        self.is_done = False

    def update(self, done: int, total: int = 0, size: int = 0) -> None:
        if not self.is_done:
            self._cas("rm", THREE, TWO)
            self.is_done = True


def test_stats_skip_artifacts_removed_meanwhile(filled: Cas) -> None:
    with Store(filled.store) as store:
        remover = _Remover(filled)
        groups = store.groups(lambda artifact: artifact.signature.recipe, remover)

    assert remover.is_done
    assert {group.name: group.own for group in groups}["two"] == 0


def test_stats_report_a_missing_layer_as_damage(filled: Cas) -> None:
    with Store(filled.store) as store:
        layer = Path(os.fsdecode(store.layer_path(store.resolve("one"))))
    layer.rename(filled.directory / "aside")

    for command in (["du", "one"], ["stats", "--by", "recipe"]):
        error = filled(*command, code=6).stderr
        assert f"of {ONE} is missing" in error
        assert "verify" in error


def test_locked_counts_delay_nothing(filled: Cas) -> None:
    with (filled.store / "counts").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        filled("has", ONE)
        filled("run", "--sysroot", "s=one", "--", "true")
    assert set(_counts(filled).values()) == {0}


def test_counts_do_not_overflow(cas: Cas) -> None:
    cas("init")
    store = os.fsencode(cas.store)
    add_counts(store, Counts(1))
    (cas.store / "counts").write_bytes(b"\xff" * (cas.store / "counts").stat().st_size)
    add_counts(store, Counts(1, 1, 1, 1, 1, 1))

    assert min(read_counts(store)[time.time_ns() // DAY_NS]) == (1 << 64) - 1
