"""`cas run --trace`: the files that a task opened in its sysroots, and the unused artifacts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mounter
from cas.store import Store
from tests.helpers.running import next_line, start
from tests.helpers.schemas import check
from tests.helpers.support import ROOT, Cas, make
from tests.helpers.users import as_user
from tests.mount.test_hardlink_fallback import NO_NAMESPACES

pytestmark = pytest.mark.per_user

A, B, C = (f"{name}:t:12345678" for name in "abc")
_LIMITED = [
    "unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-euc",
    'echo "$1" > "/proc/sys/user/$0"; shift; exec "$@"',
]  # fmt: skip


@pytest.fixture
def stored(cas: Cas, work: Path) -> None:
    cas("put", A, make(work / "a", {"usr/include/a.h": "a", "usr/include/one.h": "a", "d/": None}))
    cas(
        "put",
        B,
        make(
            work / "b",
            {"usr/include/b.h": "b", "usr/include/sys/b.h": "b", "usr/include/sys/deep/b.h": ""},
        ),
    )
    cas("put", C, make(work / "c", {"usr/lib/c.a": "c", "lib@": "usr/lib"}))


def _traced(cas: Cas, *arguments: str | Path, code: int = 0) -> Any:
    """Run with --trace; return the document."""
    files = ("--trace", "used.json", "--report", "how.json")
    cas("run", *files, "--conflicts", "ignore", *arguments, code=code)
    document = json.loads((cas.directory / "used.json").read_text())
    how = json.loads((cas.directory / "how.json").read_text())
    check("run", how)
    assert how["trace"] == document
    assert how["exit_code"] == code
    check("run trace", document)
    return document


def _used(document: Any) -> dict[str, list[str]]:
    """Return the paths that were opened of each artifact of the only sysroot."""
    (sysroot,) = document["sysroots"]
    assert all(one["opened"] == len(one["paths"]) for one in sysroot["artifacts"])
    assert document["complete"]
    return {one["id"]: one["paths"] for one in sysroot["artifacts"]}


def _links(document: Any) -> dict[str, int]:
    return {one["id"]: one["links"] for one in document["sysroots"][0]["artifacts"]}


def test_trace_counts_files_opened_by_descendants(cas: Cas, work: Path, stored: None) -> None:
    script = "cat s/usr/include/a.h s/usr/include/a.h; sh -c 'setsid cat s/usr/include/sys/b.h; :'"
    document = _traced(cas, "--sysroot", "s=a,b,c", "--", "sh", "-c", script)

    assert document == {
        "complete": True,
        "exit_code": 0,
        "sysroots": [
            {
                "target": str(work / "s"),
                "artifacts": [
                    {"id": A, "files": 2, "opened": 1, "links": 0, "paths": ["usr/include/a.h"]},
                    {"id": B, "files": 3, "opened": 1, "links": 0,
                     "paths": ["usr/include/sys/b.h"]},
                    {"id": C, "files": 1, "opened": 0, "links": 0, "paths": []},
                ],
                "untouched": [C],
            }
        ],
    }  # fmt: skip


def test_trace_ignores_listing_and_stat(cas: Cas, stored: None) -> None:
    script = "ls -lR s; find s -name '*.h' -size +0; test -f s/usr/lib/c.a; cat s/usr/no || :"
    document = _traced(cas, "--sysroot", "s=a,b,c", "--", "sh", "-c", script)

    assert _used(document) == {A: [], B: [], C: []}
    assert _links(document)[C] == 0
    assert document["sysroots"][0]["untouched"] == [A, B, C]


def test_trace_counts_programs_scripts_and_libraries(cas: Cas, work: Path) -> None:
    make(work / "tools", {"bin/script*": "#!/bin/sh\n:\n", "bin/unused*": "#!/bin/sh\n"})
    shutil.copy("/bin/true", work / "tools/bin/true")
    library = next(
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libc.so" in line
    )
    make(work / "libraries", {"lib/": None})
    for name in ("libloaded.so", "libpreloaded.so", "libunused.so"):
        shutil.copy(library, work / "libraries/lib" / name)
    cas("put", A, work / "tools")
    cas("put", B, work / "libraries")
    load = f"{sys.executable} -c 'import ctypes; ctypes.CDLL(\"s/lib/libloaded.so\")'"
    script = f"s/bin/true; s/bin/script; {load}; LD_PRELOAD=$PWD/s/lib/libpreloaded.so /bin/true"
    document = _traced(cas, "--sysroot", "s=a,b", "--", "sh", "-c", script)

    assert _used(document) == {
        A: ["bin/script", "bin/true"],
        B: ["lib/libloaded.so", "lib/libpreloaded.so"],
    }
    assert _used(_traced(cas, "--sysroot", "s=a,b", "--", "s/bin/true"))[A] == ["bin/true"]


def test_trace_credits_the_winner_and_possible_links(cas: Cas, work: Path) -> None:
    """No facility reports that a link was followed, so an artifact with a link to an opened
    file does not count as untouched."""
    cas("put", "libz:t:12345678", make(work / "libz", {"usr/lib/libz.so.1": "z"}))
    cas("put", "dev:t:12345678", make(work / "dev", {"usr/lib/libz.so@": "./libz.so.1"}))
    cas("put", "dirs:t:12345678", make(work / "dirs", {"lib@": "usr/lib", "lib64@": "/../lib"}))
    cas("put", "host:t:12345678", make(work / "host", {"etc/x@": "/etc/x", "up@": "../x"}))
    cas("put", "deep:t:12345678", make(work / "deep", {"l@": f"{work}/s/lib/libz.so"}))
    cas("put", "none:t:12345678", make(work / "none", {"m@": "m", "n@": "nothing", "o@": "etc"}))
    options = ["--sysroot", "s=libz,dev,dirs,host,deep,none", "--"]
    document = _traced(cas, *options, "cat", "s/usr/lib/libz.so")

    assert _used(document)["libz:t:12345678"] == ["usr/lib/libz.so.1"]
    assert {id_.partition(":")[0]: n for id_, n in _links(document).items()} == {
        "libz": 0, "dev": 1, "dirs": 2, "host": 2, "deep": 1, "none": 0,
    }  # fmt: skip
    assert document["sysroots"][0]["untouched"] == ["none:t:12345678"]
    untouched = _traced(cas, *options, "true")["sysroots"][0]["untouched"]
    assert {id_.partition(":")[0] for id_ in untouched} == {"libz", "dev", "deep", "none"}


def test_trace_assigns_a_path_to_its_winner(cas: Cas, work: Path) -> None:
    cas("put", A, make(work / "a", {"x": "a", "y": "same"}))
    cas("put", B, make(work / "b", {"x": "b", "y": "same"}))
    read = ["--", "cat", "s/x", "s/y"]

    document = _traced(cas, "--sysroot", "s=a,b", *read)
    assert _used(document) == {A: [], B: ["x", "y"]}
    assert document["sysroots"][0]["untouched"] == [A]
    assert _used(_traced(cas, "--sysroot", "s=a@1,b", *read)) == {f"{A}@1": ["x", "y"], B: []}
    twice = _traced(cas, "--sysroot", "s=a,b,a", *read)
    assert [one["opened"] for one in twice["sysroots"][0]["artifacts"]] == [0, 0, 2]
    assert twice["sysroots"][0]["untouched"] == [B]


def test_trace_separates_several_sysroots(cas: Cas, work: Path, stored: None) -> None:
    """A bind mount hides the files of artifacts; files of a sysroot within one count."""
    make(work / "bound", {"b.h": "not b's", "deep/b.h": "nor this"})
    make(work / "build", {})
    document = _traced(
        cas, "--sysroot", "s=a,b", "--sysroot", "/cas-tests-no-such/n=a,c",
        "--bind", f"bound:{work}/s/usr/include/sys", "--bind", "build:/cas-tests-no-such",
        "--", "cat", "s/usr/include/a.h", "s/usr/include/sys/b.h", "s/usr/include/sys/deep/b.h",
        "/cas-tests-no-such/n/usr/lib/c.a",
    )  # fmt: skip

    target, native = document["sysroots"]
    assert [target["target"], native["target"]] == [f"{work}/s", "/cas-tests-no-such/n"]
    assert [target["untouched"], native["untouched"]] == [[B], [A]]


def test_trace_with_a_new_path_in_a_sysroot_is_incomplete(
    cas: Cas, work: Path, stored: None
) -> None:
    """The directory that gets it is replaced by one that has the same files."""
    make(work / "bound", {"x": ""})
    options = ["--bind", f"bound:{work}/s/usr/include/new/x", "--sysroot", "s=a,b", "--",
               "cat", "s/usr/include/a.h", "s/usr/include/new/x/x"]  # fmt: skip

    document = _traced(cas, *options)
    assert not document["complete"]
    assert document["sysroots"][0]["untouched"] is None
    assert "does not see the files beside" in cas("run", "--trace", "used.json", *options).stderr
    document = _traced(cas, "--rw", *options)
    assert _used(document) == {A: ["usr/include/a.h"], B: []}


def test_trace_ignores_changes_of_an_earlier_task(cas: Cas, work: Path) -> None:
    """A directory is replaced by a link to a directory of another artifact."""
    cas("put", A, make(work / "a", {"usr/lib/deep/x": "a"}))
    cas("put", B, make(work / "b", {"usr/z/deep/x": "b", "usr/zz/x": "b"}))
    options = ["--upper", "changes", "--sysroot", "s=a,b", "--", "sh", "-c"]
    cas("run", *options, "rm -r s/usr/z s/usr/zz; ln -s lib s/usr/z")
    document = _traced(cas, *options, "cat s/usr/lib/deep/x s/usr/z/deep/x")

    assert _used(document) == {A: ["usr/lib/deep/x"], B: []}


@pytest.mark.parametrize(
    "options",
    [["--strategy=overlay"], ["--strategy=hardlink"], ["--strategy=copy"], ["--rw"],
     ["--upper=changes"], ["--rw", "--strategy=copy"], ["--map-root"], ["--share=pid", "--net"]],
)  # fmt: skip
def test_trace_works_with_every_strategy_and_sandbox(
    cas: Cas, stored: None, options: list[str]
) -> None:
    script = "cat s/usr/include/a.h; echo > s/usr/new && cat s/usr/new; exit 0"
    document = _traced(cas, *options, "--sysroot", "s=a,b,c", "--", "sh", "-c", script)

    assert _used(document) == {A: ["usr/include/a.h"], B: [], C: []}


def test_trace_works_without_namespaces(cas: Cas, work: Path, stored: None) -> None:
    limited = replace(cas, wrapper=tuple(NO_NAMESPACES))
    document = _traced(limited, "--sysroot", "s=a,b", "--", "cat", "s/usr/include/b.h")

    assert _used(document) == {A: [], B: ["usr/include/b.h"]}
    assert not (work / "s").exists()


@pytest.mark.skipif(not ROOT, reason="the other tests run as an ordinary user then")
def test_trace_works_for_an_ordinary_user(cas: Cas, work: Path, stored: None) -> None:
    for path in (work, cas.store):
        subprocess.run(["chown", "-R", "4242:4242", path], check=True)
    document = _traced(as_user(cas, 4242), "--sysroot", "s=a,b", "--", "cat", "s/usr/include/a.h")

    assert _used(document) == {A: ["usr/include/a.h"], B: []}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["sh", "-c", "cat s/usr/include/a.h; echo err >&2; exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -9 $$"], 137),
        (["no-such-command"], 127),
        (["s/usr/include/a.h"], 126),
    ],
)
def test_trace_keeps_the_result_of_the_command(
    cas: Cas, work: Path, stored: None, command: list[str], code: int
) -> None:
    options = ["--sysroot", "s=a", "--", *command]
    plain = cas("run", *options, code=code)
    traced = cas("run", "--trace", "used.json", *options, code=code)

    assert (traced.stdout, traced.stderr) == (plain.stdout, plain.stderr)
    assert json.loads((work / "used.json").read_text())["exit_code"] == code


def _start(cas: Cas, script: str) -> subprocess.Popen[str]:
    options = ("--trace", "used.json", "--sysroot", "s=a,b")
    return start(cas, "run", *options, "--", sys.executable, "-uc", script)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_traced_command_gets_a_signal_once(
    cas: Cas, work: Path, stored: None, number: signal.Signals
) -> None:
    script = (
        "import signal, sys\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])\n"
        "print('ready')\n"
        f"print(int(signal.sigwait([{int(number)}])))\n"
        f"print(signal.sigtimedwait([{int(number)}], 0.2))\n"
        "open('s/usr/include/a.h'); sys.exit(9)\n"
    )
    with _start(cas, script) as process:
        assert next_line(process) == "ready"
        process.send_signal(number)
        assert next_line(process) == str(int(number))
        assert next_line(process) == "None"
    assert process.returncode == 9
    assert _used(json.loads((work / "used.json").read_text()))[A] == ["usr/include/a.h"]


def test_killed_trace_ends_its_task_and_writes_nothing(cas: Cas, work: Path, stored: None) -> None:
    process = _start(
        cas, "import os, time; print(os.readlink('/proc/self/ns/pid')); time.sleep(99)"
    )
    namespace = next_line(process)
    process.kill()
    process.communicate()

    deadline = time.monotonic() + 30
    while namespace in set(_namespaces()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert namespace not in set(_namespaces())
    assert (work / "used.json").read_text() == ""
    cas("rm", "a", "b")


def _namespaces() -> Iterator[str]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield os.readlink(f"/proc/{pid}/ns/pid")
        except OSError:
            continue


def test_trace_with_lost_events_calls_nothing_untouched(cas: Cas, work: Path, stored: None) -> None:
    """The reader is stopped while the command opens more than the queue takes."""
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    script = (
        "import os; print('ready'); input()\n"
        f"for n in range({queue}):\n"
        "    for name in ('a', 'one'):\n"  # equal events that follow each other are one
        "        os.close(os.open(f's/usr/include/{name}.h', os.O_RDONLY))\n"
        "open('s/usr/include/b.h'); print('done')\n"
    )
    with _start(cas, script) as process:
        assert process.stdin is not None
        assert next_line(process) == "ready"
        process.send_signal(signal.SIGSTOP)
        process.stdin.write("\n")
        process.stdin.flush()
        assert next_line(process) == "done"
        process.send_signal(signal.SIGCONT)
    assert process.returncode == 0
    document = json.loads((work / "used.json").read_text())
    assert not document["complete"]
    assert document["sysroots"][0]["untouched"] is None
    assert [one["opened"] for one in document["sysroots"][0]["artifacts"]] == [2, 0]


def test_trace_ignores_the_final_unmount(cas: Cas, work: Path) -> None:
    """There are two events for each directory then, more than the queue takes: the reader is
    stopped until that is over."""
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    tree = {f"{n // 1000}/{n}/": None for n in range(queue * 2 // 3)}
    cas("put", A, make(work / "a", {**tree, "3/3003/file": ""}))
    cas("put", B, make(work / "b", {"b": ""}))
    with _start(cas, "open('s/3/3003/file'); print('ready'); input()") as process:
        assert process.stdin is not None
        assert next_line(process) == "ready"
        keeper = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().strip()
        process.send_signal(signal.SIGSTOP)
        process.stdin.write("\n")
        process.stdin.flush()
        while "State:\tZ" not in Path(f"/proc/{keeper}/status").read_text():
            time.sleep(0.01)
        process.send_signal(signal.SIGCONT)
    assert process.returncode == 0
    assert _used(json.loads((work / "used.json").read_text())) == {A: ["3/3003/file"], B: []}


def test_trace_follows_paths_longer_than_the_kernel_takes(cas: Cas, work: Path) -> None:
    tree = make(work / "a", {"other": ""})
    deep = "/".join(["d" * 250] * 20)
    here = os.open(tree, os.O_RDONLY)
    for name in deep.split("/"):
        os.mkdir(name, dir_fd=here)
        here, above = os.open(name, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    cas("put", A, tree)
    script = (
        f"import os\nos.chdir('s')\nfor name in {deep!r}.split('/'):\n"
        "    os.chdir(name)\nopen('file')"
    )
    document = _traced(cas, "--sysroot", "s=a", "--", sys.executable, "-c", script)

    assert _used(document) == {A: [f"{deep}/file"]}
    cas("rm", "a")  # by whom deep trees can be removed
    shutil.rmtree(tree)


def test_trace_separates_merged_layers(cas: Cas, work: Path) -> None:
    with Store(cas.store, create=True) as store:
        for number in range(510):
            store.put(
                f"r{number}:t:12345678", make(work / f"r{number}", {f"{number}": f"{number}"})
            )
    (work / "ids").write_text("".join(f"r{number}\n" for number in range(510)))
    document = _traced(cas, "--sysroot-from", "s=ids", "--", "cat", "s/3", "s/509")

    used = [(one["id"], one["opened"]) for one in document["sysroots"][0]["artifacts"]]
    assert [id_ for id_, opened in used if opened] == ["r3:t:12345678", "r509:t:12345678"]
    assert len(document["sysroots"][0]["untouched"]) == 508


@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_trace_refused_by_the_kernel_is_reported_before_the_command(
    cas: Cas, work: Path, stored: None, limit: str
) -> None:
    limited = replace(cas, wrapper=(*_LIMITED, limit, "1" if "watches" in limit else "0"))
    done = limited("run", "--trace", "used.json", "--sysroot", "new/s=a", "--", "touch", "began",
                   code=125)  # fmt: skip

    assert "cas: cannot trace the command" in done.stderr
    assert "hint: raise it (`sysctl fs.inotify.max_user_" in done.stderr
    assert sorted(os.listdir(work)) == ["a", "b", "c", "store", "used.json"]


def test_unwritable_trace_file_is_reported_first_or_changes_nothing(
    cas: Cas, work: Path, stored: None
) -> None:
    options = ["--sysroot", "s=a", "--", "sh", "-c"]
    done = cas("run", "--trace", "missing/used.json", *options, "touch began", code=125)
    assert "No such file or directory: missing/used.json" in done.stderr
    assert not (work / "began").exists()

    done = cas("run", "--trace", "used.json", *options, "rm used.json; exit 3", code=3)
    assert "it was removed meanwhile" in done.stderr
    done = cas("run", "--trace", "/dev/full", *options, "exit 4", code=4)
    assert "No space left" in done.stderr


def test_trace_works_from_python(work: Path) -> None:
    with Store(work / "store", create=True) as store:
        store.put(A, make(work / "a", {"x": "a"}))
        store.put(B, make(work / "b", {"y": "b"}))
        with store.compose(["a", "b"]) as composition:
            plan = mounter.Plan.of(composition, os.fsencode(work / "s"))
            with mounter.Tracer([plan]) as tracer:
                assert mounter.run_plans(["cat", "s/y"], [plan], tracer=tracer) == 1
                assert mounter.run_plans(["true"], [plan]) == 0
            used = tracer.used(plan)
    assert [(one.id, one.touched) for one in used] == [(A, False), (B, False)]


def _told(cas: Cas, *arguments: str, code: int = 0, wrapper: Sequence[str] = ()) -> Any:
    """Run with --report; return the document."""
    replace(cas, wrapper=tuple(wrapper))("run", "--report", "how.json", *arguments, code=code)
    document = json.loads((cas.directory / "how.json").read_text())
    check("run", document)
    return document


def test_run_report_describes_the_run(cas: Cas, work: Path, stored: None) -> None:
    cas("put", "other:t:12345678", make(work / "other", {"usr/include/a.h": "not a"}))
    before = time.time_ns()

    told = _told(cas, "--sysroot", "s=a@2,other", "--", "sh", "-c", "sleep 0.2; exit 3", code=3)

    assert before <= told["began_ns"] <= time.time_ns()
    assert 0.2 <= told["seconds"] < 60
    assert (told["exit_code"], told["namespaces"], told["notes"]) == (3, True, [])
    assert told["trace"] is None
    (sysroot,) = told["sysroots"]
    assert (sysroot["target"], sysroot["strategy"]) == (str(work / "s"), "overlay")
    assert sysroot["ids"] == ["other:t:12345678", f"{A}@2"]
    assert [one["path"] for one in sysroot["conflicts"]] == ["usr/include/a.h"]


def test_run_report_names_refused_features(cas: Cas, work: Path, stored: None) -> None:
    linked = _told(cas, "--strategy", "hardlink", "--sysroot", "s=a", "--", "true")
    plain = _told(cas, "--sysroot", "s=a", "--sysroot", "t=b", "--", "true", wrapper=NO_NAMESPACES)
    none = _told(cas, "--", "true")

    assert [one["strategy"] for one in linked["sysroots"]] == ["hardlink"]
    assert [one["strategy"] for one in plain["sysroots"]] == ["hardlink"] * 2
    assert (linked["namespaces"], plain["namespaces"], none["namespaces"]) == (True, False, True)
    assert "shares network" in plain["notes"][0]
    assert (linked["notes"], none["sysroots"]) == ([], [])


def test_unwritable_run_report_is_reported(cas: Cas, work: Path, stored: None) -> None:
    script = "rm how.json"
    done = cas("run", "--report", "how.json", "--sysroot", "s=a", "--", "sh", "-c", script)
    assert "how.json could not be written: it was removed meanwhile" in done.stderr
    missing = cas("run", "--report", "no/how.json", "--", "touch", "ran", code=125)
    assert "No such file or directory: no/how.json" in missing.stderr
    assert not (work / "ran").exists()


def test_run_accepts_the_old_name_of_report(cas: Cas, work: Path) -> None:
    cas("run", "--json", "old.json", "--", "true")

    assert json.loads((work / "old.json").read_text())["exit_code"] == 0
    assert "--json" not in cas("run", "--help").stdout
