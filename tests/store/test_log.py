"""`cas log`: the changes of a store, with times and users."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cas.disk.log import EventKind, append_events, new_event
from cas.store import Store
from tests.helpers.support import ROOT, Cas, make
from tests.helpers.users import as_user

ZLIB = "zlib:core2-64:do_x:12345678"
APP = "app:do_x:12345678"
NOW = ("--grace=0s", "--max-age=0s")


def _put(cas: Cas, name: str, text: str, *options: str) -> None:
    cas("put", *options, name, make(cas.directory / f"tree-of-{name[:3]}", {"usr/file": text}))


def _kinds(cas: Cas, *arguments: str) -> list[str]:
    return [entry["event"] for entry in cas.json("log", *arguments)]


def _months(store: Path) -> list[Path]:
    return sorted((store / "log").iterdir())


def test_log_records_every_change_of_artifacts(cas: Cas) -> None:
    began = time.time_ns()
    _put(cas, ZLIB, "1")
    _put(cas, ZLIB, "1")  # it is stored already
    _put(cas, ZLIB, "2", "--replace")
    _put(cas, APP, "app")
    cas("pin", "zlib", "--reason", "release 4.2")
    cas("unpin", "zlib")
    cas("rm", "app")
    cas("gc", *NOW)

    entries = cas.json("log")

    assert [(entry["event"], entry["id"]) for entry in entries] == [
        ("put", ZLIB), ("put", ZLIB), ("freed", None), ("put", APP), ("pinned", ZLIB),
        ("unpinned", ZLIB), ("removed", APP), ("freed", None), ("collected", ZLIB),
        ("freed", None),
    ]  # fmt: skip
    put, replaced, *_ = entries
    assert put["what"] == f"from {cas.directory / 'tree-of-zli'}"
    assert replaced["what"].endswith(f", in place of {put['tree']}")
    assert put["tree"] != replaced["tree"]
    assert {entry["event"]: entry["what"] for entry in entries}["pinned"] == "release 4.2"
    assert {entry["event"]: entry["what"] for entry in entries}["collected"].startswith(
        "not used for"
    )
    times = [entry["time_ns"] for entry in entries]
    around = [began, *times, time.time_ns()]
    assert around == sorted(around)
    assert {entry["uid"] for entry in entries} == {os.geteuid()}
    taken = sum(entry["bytes"] for entry in entries if entry["event"] == "put")
    assert taken == sum(entry["bytes"] for entry in entries if entry["event"] == "freed") > 0


def test_log_records_damage_and_repair(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    (damaged,) = (p for p in (cas.store / "objects").rglob("*") if p.is_file())
    damaged.chmod(0o644)
    damaged.write_text("2")
    damaged.chmod(0o444)

    cas("verify", code=6)
    entries = cas.json("log", "--event", "damaged")
    cas("verify", code=6)
    assert cas.json("log", "--event", "damaged") == entries  # the damage is known already
    assert [entry["id"] for entry in entries] == [ZLIB] * len(entries) != []
    assert any(entry["what"].startswith("content: ") for entry in entries)

    cas("verify", "--repair")
    cas("rebuild-index")
    assert {"repaired", "lost", "rebuilt"} <= set(_kinds(cas, "--since", "1h"))
    last = cas.json("log")[-1]
    assert (last["event"], last["what"]) == ("rebuilt", "0 restored, 0 lost")
    assert _kinds(cas, "zlib", "--event", "damaged", "--last", "1") == ["damaged"]
    (lost,) = cas.json("log", "zlib", "--event", "lost")
    assert lost["what"] == "it could not be healed"
    assert cas.json("stats")["days"][-1]["gone"] == 1


def test_log_records_artifacts_lost_to_a_power_failure(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    cas("rebuild-index")  # the new records name an unknown boot, as if after a reboot
    (layer,) = (cas.store / "layers").iterdir()
    (layer / "usr").chmod(0o755)
    (layer / "usr/file").unlink()

    cas("has", ZLIB, code=3)

    (lost,) = cas.json("log", "--event", "lost")
    assert lost["id"] == ZLIB
    assert "power failure" in lost["what"]


def test_log_filters_are_applied(cas: Cas) -> None:
    for number in range(60):
        _put(cas, f"r{number}:do_x:12345678", str(number))

    assert len(cas.json("log")) == 50
    assert len(cas.json("log", "--since", "1d")) == 60
    assert [entry["id"][:3] for entry in cas.json("log", "--last", "2")] == ["r58", "r59"]
    assert [entry["id"] for entry in cas.json("log", "r7")] == ["r7:do_x:12345678"]
    assert len(cas.json("log", "r1*")) == 11
    assert len(cas.json("log", "r?:do_x:*")) == 10
    assert cas.json("log", "--event", "freed") == []
    assert "no such events" in cas("log", "--event", "freed").stderr
    text = cas("log", "--last", "1").stdout
    assert "KiB  r59:do_x:12345678 from " in text
    assert "'put', 'removed'" in cas("log", "--event", "stored", code=2).stderr


def test_concurrent_puts_lose_no_log_line(cas: Cas) -> None:
    cas("init")
    code = (
        "import sys; from cas.store import Store; from tests.helpers.support import make\n"
        "name, work = sys.argv[2], __import__('pathlib').Path(sys.argv[3])\n"
        "with Store(sys.argv[1]) as store:\n"
        "    for n in range(25):\n"
        "        tree = make(work / name, {'f': name * 200 + str(n)})\n"
        "        store.put(f'{name}-{n}:do_x:12345678', tree)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, cas.store, name, cas.directory])
        for name in "abcd"
    ]
    assert [process.wait() for process in running] == [0] * 4

    lines = b"".join(month.read_bytes() for month in _months(cas.store)).splitlines()
    ids = [json.loads(line)["id"] for line in lines]

    assert sorted(ids) == sorted(f"{name}-{n}:do_x:12345678" for name in "abcd" for n in range(25))


def test_corrupt_log_lines_are_skipped(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    month = _months(cas.store)[-1]
    whole = month.read_bytes()
    cut = whole[: len(whole) // 2]
    mistyped = (whole.replace(b'"put"', b'["put"]'), whole.replace(b'"uid": ', b'"uid": -1'))
    junk_of_all_kinds = (cut, b"\xff\xfe", b"[]", b"{}", b"0" * 5000, b"\0" * 4096, *mistyped)
    for junk in junk_of_all_kinds:
        month.write_bytes(whole + junk + b"\n" + whole + junk)
        assert _kinds(cas) == ["put", "put"]
    (cas.store / "log" / "not-a-month").write_bytes(whole)
    (cas.store / "log" / "2000-01").mkdir()
    assert _kinds(cas) == ["put", "put"]


def test_log_escapes_terminal_sequences(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    month = _months(cas.store)[-1]
    line = json.dumps({"time_ns": 1, "kind": "put", "uid": 0, "id": "\x1b[2J", "what": "\nput"})
    month.write_text(line)

    assert "\x1b" not in cas("log").stdout
    assert len(cas("log").stdout.splitlines()) == 2


def test_gc_removes_old_log_files(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    now = time.gmtime()
    name = [f"{now.tm_year - 1}-{now.tm_mon:02}", f"{now.tm_year - 2}-12", "0001-01"]
    for month in name:
        (cas.store / "log" / month).write_text("")

    cas("gc")

    kept = [month.name for month in _months(cas.store)]
    assert kept == [name[0], f"{now.tm_year}-{now.tm_mon:02}"]


@pytest.mark.per_user
def test_unwritable_log_does_not_stop_the_command(cas: Cas) -> None:
    cas("init")
    month = cas.store / "log" / time.strftime("%Y-%m", time.gmtime())
    os.mkfifo(month)  # ENXIO if it is opened without waiting

    done = cas("put", ZLIB, make(cas.directory / "tree", {"file": "1"}))

    assert "cas: warning: the log of the store could not be written" in done.stderr
    assert ZLIB in done.stderr
    cas("has", ZLIB)


def test_log_is_created_on_demand(cas: Cas) -> None:
    cas("init")
    (cas.store / "log").rmdir()

    assert cas.json("log") == []
    _put(cas, ZLIB, "1")
    assert _kinds(cas) == ["put"]


@pytest.mark.per_user
@pytest.mark.parametrize("name", ["log", "counts"])
@pytest.mark.parametrize("kind", ["missing", "file", "directory", "fifo", "link"])
def test_foreign_file_instead_of_the_log_stops_nothing(
    cas: Cas, work: Path, name: str, kind: str
) -> None:
    cas("init")
    there = cas.store / name
    if there.is_dir():
        there.rmdir()
    else:
        there.unlink()
    if kind == "file":
        there.write_text("x")
    elif kind == "directory":
        there.mkdir()
    elif kind == "fifo":
        os.mkfifo(there)
    elif kind == "link":
        there.symlink_to(work)

    _put(cas, ZLIB, "1")
    for command in (["has", ZLIB], ["ls"], ["verify"], ["gc"], ["stats"], ["log"], ["rm", "zlib"]):
        cas(*command)
    assert set(os.listdir(work)) == {"store", "tree-of-zli"}


@pytest.mark.skipif(not ROOT, reason="only root can be several users")
def test_log_records_users_of_a_shared_store(cas: Cas, work: Path) -> None:
    work.chmod(0o777)
    ann, bob = as_user(cas, 4242, 6000), as_user(cas, 4243, 6000)
    tree = make(work / "tree", {"file": "1"})
    ann("init", "--shared", "--group", "6000")
    bob("put", ZLIB, tree)
    ann("pin", "zlib")
    cas("unpin", "zlib")

    changes = [(entry["event"], entry["uid"]) for entry in ann.json("log")]

    assert changes == [("put", 4243), ("pinned", 4242), ("unpinned", 0)]
    assert "4243" in ann("log").stdout


@pytest.mark.skipif(not ROOT, reason="only root can be several users")
def test_log_file_begun_by_root_belongs_to_the_owner(cas: Cas, work: Path) -> None:
    work.chmod(0o777)
    owner = as_user(cas, 4242)
    tree = make(work / "tree", {"file": "1"})
    owner("init")
    cas("put", ZLIB, tree)
    owner("put", APP, tree)

    assert [entry["uid"] for entry in owner.json("log")] == [0, 4242]


@pytest.mark.skipif(not ROOT, reason="only root can be several users")
def test_reader_without_write_access_is_not_logged(cas: Cas, work: Path) -> None:
    work.chmod(0o777)
    _put(cas, ZLIB, "1")
    (layer,) = (cas.store / "layers").iterdir()
    (layer / "usr").chmod(0o700)
    before = _months(cas.store)[-1].read_bytes()
    reader = as_user(cas, 4242)

    done = reader("verify", "--quick", code=None)

    assert done.returncode != 0
    assert "warning" not in done.stderr
    assert _months(cas.store)[-1].read_bytes() == before
    assert [entry["event"] for entry in reader.json("log")] == ["put"]


def test_event_text_survives_as_one_line(cas: Cas) -> None:
    cas("init")
    texts = ["\n", "\udcff", "ü" * 5000, "\x00", '"', "\\"]
    with Store(cas.store) as store:
        append_events(store.fd, [new_event(EventKind.REPAIRED, what=text) for text in texts])
        assert [entry.what for entry in store.log()] == [text[:1000] for text in texts][::-1]
    assert len(_months(cas.store)[-1].read_bytes().splitlines()) == len(texts)


def test_log_lines_are_plain_json(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    code = "import json, sys; print([json.loads(line)['kind'] for line in open(sys.argv[1])])"
    (month,) = _months(cas.store)
    read = subprocess.check_output([sys.executable, "-S", "-c", code, month], text=True)

    assert read == "['put']\n"


def test_log_line_after_a_truncated_one_is_readable(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    (month,) = _months(cas.store)
    with month.open("ab") as file:
        file.write(month.read_bytes()[:50])
    cas("pin", "zlib")

    assert _kinds(cas) == ["put", "pinned"]


def test_full_log_file_is_followed_by_another(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    (month,) = _months(cas.store)
    line = month.read_bytes()
    filler = line * (32 * 2**20 // len(line))
    for _ in range(3):
        with month.open("ab") as file:
            file.write(filler)
        cas("pin", "zlib")
        cas("unpin", "zlib")

    assert [path.name for path in _months(cas.store)] == [month.name, f"{month.name}.1"]
    assert sum(path.stat().st_size for path in _months(cas.store)) < 80 * 2**20
    assert _kinds(cas, "--last", "3") == ["put", "pinned", "unpinned"]


def test_oversized_log_file_is_read_at_its_end(cas: Cas) -> None:
    cas("init")
    month = cas.store / "log" / time.strftime("%Y-%m", time.gmtime())
    with month.open("wb") as file:
        file.truncate(3 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
    _put(cas, ZLIB, "1")

    assert _kinds(cas) == ["put"]


def test_damage_of_a_shared_content_is_logged_for_each_artifact(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    cas("put", APP, cas.directory / "tree-of-zli")
    (damaged,) = (p for p in (cas.store / "objects").rglob("*") if p.is_file())
    damaged.chmod(0o644)
    damaged.write_text("2")
    damaged.chmod(0o444)
    cas("verify", code=6)

    for name in ("zlib", "app", APP):
        assert "damaged" in _kinds(cas, name)
    assert _kinds(cas, "ap") == []


def test_log_works_with_a_damaged_index(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    (cas.store / "index/data.mdb").write_bytes(b"x" * 8192)

    assert _kinds(cas) == ["put"]


def test_healing_put_is_logged(cas: Cas) -> None:
    _put(cas, ZLIB, "1")
    (layer,) = (cas.store / "layers").iterdir()
    shutil.move(layer, cas.directory / "aside")
    _put(cas, ZLIB, "1")

    healed = cas.json("log")[-1]
    assert (healed["event"], healed["id"]) == ("repaired", ZLIB)


def test_log_warning_is_not_a_python_warning(cas: Cas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    _put(cas, ZLIB, "1")
    (month,) = _months(cas.store)
    month.unlink()
    month.mkdir()

    assert "cas: warning: the log" in cas("rm", "zlib").stderr


@pytest.mark.skipif(not ROOT, reason="only root can be several users")
def test_first_log_lines_of_several_users_are_kept(cas: Cas, work: Path) -> None:
    work.chmod(0o777)
    users = [as_user(cas, uid, 6000) for uid in (4242, 4243)]
    users[0]("init", "--shared", "--group", "6000")
    code = (
        "import contextlib, os, sys, time\n"
        "from cas.disk.log import EventKind, append_events, new_event\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "for round in range(100):\n"
        "    append_events(fd, [new_event(EventKind.REPAIRED, what=f'{sys.argv[2]} {round}')])\n"
        "    for name in os.listdir(sys.argv[1] + '/log') if round % 10 == 0 else ():\n"
        "        with contextlib.suppress(FileNotFoundError):  # another process moved it\n"
        "            os.rename(f'{sys.argv[1]}/log/{name}', f'{sys.argv[3]}/{time.time_ns()}')\n"
    )
    aside = work / "aside"
    aside.mkdir(mode=0o777)
    aside.chmod(0o777)
    running = [
        subprocess.Popen(
            [*user.wrapper, sys.executable, "-c", code, cas.store, str(number), aside], cwd=work
        )
        for number, user in enumerate(users * 2)
    ]
    assert [process.wait() for process in running] == [0] * 4

    files = [*_months(cas.store), *aside.iterdir()]
    lines = b"".join(path.read_bytes() for path in files).splitlines()

    assert len(lines) == len(set(lines)) == 400
