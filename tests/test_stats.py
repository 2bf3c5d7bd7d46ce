"""`cas stats` tells what the store holds and saves, and how it is used, and that is so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cas.counts import FIRST_DAY, Counts, count, read_counts
from cas.policy import DAY_NS
from cas.store import Store
from tests.support import ROOT, Cas, make
from tests.users import as_user

ONE, TWO = "one:x86:do_x:12345678", "two:do_x:12345678"
THREE = "two:do_y:12345678"
_TODAY = -1
NOW = ("--grace=0s",)


@pytest.fixture
def filled(cas: Cas, work: Path) -> Cas:
    """A store with three artifacts, of which two have a content in common."""
    shared = os.urandom(30_000).hex()
    cas("put", ONE, make(work / "one", {"a/shared": shared, "b": "1" * 9000, "c@": "b"}))
    cas("put", TWO, make(work / "two", {"shared": shared, "d": "2" * 5000}))
    cas("put", THREE, make(work / "three", {"e/": None, "e/f*": "3"}))
    return cas


def _counts(cas: Cas) -> Any:
    return cas.json("stats")["counts"]


def _counted(before: Any, after: Any) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def test_sizes_are_those_of_what_is_stored(filled: Cas) -> None:
    listed = filled.json("ls")
    objects = [p for p in (filled.store / "objects").rglob("*") if p.is_file()]

    found = filled.json("stats")

    assert (found["artifacts"], found["trees"], found["contents"]) == (3, 3, 4)
    assert found["files"] == 5 == sum(one["files"] for one in listed)
    assert found["bytes"] == 134_001 == sum(one["bytes"] for one in listed)
    assert found["content_bytes"] == 74_001 == sum(p.stat().st_size for p in objects)
    assert found["saved_bytes"] == 60_000
    du = subprocess.check_output(["du", "-s", "-B1", filled.store], text=True)
    assert found["disk_bytes"] == int(du.split()[0])
    text = filled("stats").stdout
    assert "3, of 3 different trees" in text
    assert "saved by sharing 58.6 KiB" in text


def test_groups_share_what_all_take(filled: Cas) -> None:
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


def test_has_counts_what_it_is_asked_for(filled: Cas) -> None:
    before = _counts(filled)

    filled("has", ONE, TWO)
    filled("has", ONE, "four:do_x:12345678", code=3)

    assert _counted(before, _counts(filled)) == {"has_hits": 3, "has_misses": 1}


def test_sysroots_count_what_they_are_made_of_and_what_is_missing(filled: Cas, work: Path) -> None:
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


def test_plan_counts_when_it_is_carried_out(filled: Cas, work: Path) -> None:
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


def test_plan_of_before_there_were_counts_can_be_carried_out(filled: Cas, work: Path) -> None:
    import mounter

    document = filled.json("plan", "--private", work / "s", ONE)
    del document["entries"]

    assert mounter.Plan.decode(document).entries == 0


def test_counts_of_many_processes_at_once_are_all_there(cas: Cas) -> None:
    cas("init")
    code = (
        "import os, sys; from cas.counts import Counts, count\n"
        "for _ in range(500): count(os.fsencode(sys.argv[1]), Counts(has_hits=1, entries=2))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, cas.store]) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4

    found = _counts(cas)

    assert (found["has_hits"], found["entries"], found["has_misses"]) == (2000, 4000, 0)


def test_day_has_what_happened_on_it(filled: Cas) -> None:
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
    assert today["put_bytes"] == today["freed_bytes"]
    lines = filled("stats").stdout.splitlines()
    assert len([line for line in lines if line.startswith("20")]) == 1  # quiet days are left out


def test_days_before_are_kept_apart(cas: Cas) -> None:
    cas("init")
    store = os.fsencode(cas.store)
    today = time.time_ns() // DAY_NS
    count(store, Counts(has_hits=5))
    data = (cas.store / "counts").read_bytes()
    yesterday = (today - 1 - FIRST_DAY) * 64
    (cas.store / "counts").write_bytes(data[:yesterday] + data[-64:] + data[-64:])

    assert read_counts(store) == {today - 1: Counts(has_hits=5), today: Counts(has_hits=5)}
    assert read_counts(store, today) == {today: Counts(has_hits=5)}
    assert _counts(cas)["has_hits"] == 10


def test_what_gc_would_free_is_what_it_frees(filled: Cas) -> None:
    assert filled.json("stats")["gc_frees_bytes"] == 0
    (filled.store / "config.toml").write_text('[gc]\nmax_age = "0s"\ngrace = "0s"\n')
    (filled.store / "objects/00" / ("f" * 62)).write_text("left behind" * 1000)

    told = filled.json("stats")["gc_frees_bytes"]

    assert told == filled.json("gc")["freed_bytes"] > 8192
    assert filled.json("stats")["artifacts"] == 0


def test_nothing_fails_for_want_of_counting(filled: Cas, work: Path) -> None:
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


def test_python_counts_as_the_command_does(filled: Cas) -> None:
    before = _counts(filled)
    with Store(filled.store) as store:
        (artifact, *_) = store.artifacts()
        assert store.missing([artifact.signature]) == []
    assert _counted(before, _counts(filled)) == {"has_hits": 1}
