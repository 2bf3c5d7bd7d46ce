"""`cas run`: bind mounts, and the resources that the command shares with the machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import mounter
from cas.store import Store
from mounter import Bind, Sandbox
from tests.helpers.running import waiting_run
from tests.helpers.support import CAS, ROOT, Cas, make
from tests.helpers.users import as_user

pytestmark = pytest.mark.per_user

NOWHERE = "/cas-tests-no-such-directory"

# Then root cannot write to /usr either; only this namespace sees that.
_USR_READ_ONLY = (
    "unshare", "--mount", "sh", "-euc",
    'mount --bind /usr /usr; mount -o remount,bind,ro /usr; exec "$@"', "sh",
)  # fmt: skip


@pytest.fixture
def stored(cas: Cas, work: Path) -> None:
    cas("put", "a:t:12345678", make(work / "a", {"usr/x": "a"}))
    cas("put", "b:t:12345678", make(work / "b", {"usr/y": "b"}))


def _sh(cas: Cas, *options: str | Path, script: str, code: int = 0) -> str:
    return cas("run", *options, "--", "bash", "-c", script, code=code).stdout


def test_bind_and_sysroots_appear_at_missing_host_paths(cas: Cas, work: Path, stored: None) -> None:
    """The sandbox of a task in one command, as in the help and the design."""
    build = make(work / "build", {"source": "source"})
    before = set(os.listdir("/"))
    out = _sh(
        cas,
        "--bind", f"{build}:{NOWHERE}",
        "--sysroot", f"{NOWHERE}/recipe-sysroot=a",
        "--sysroot", f"{NOWHERE}/recipe-sysroot-native=a,b",
        "--env", f"WORKDIR={NOWHERE}",
        "--chdir", NOWHERE,
        script="cat recipe-sysroot/usr/x $WORKDIR/recipe-sysroot-native/usr/y source; pwd; "
        "echo result > out; ls",
    )  # fmt: skip
    assert out.splitlines() == [
        f"absource{NOWHERE}", "out", "recipe-sysroot", "recipe-sysroot-native", "source",
    ]  # fmt: skip
    assert (build / "out").read_text() == "result\n"
    assert sorted(os.listdir(build)) == ["out", "source"]
    assert set(os.listdir("/")) == before


def test_python_call_takes_binds_and_sysroots(work: Path) -> None:
    build = make(work / "build", {})
    with Store(work / "store", create=True) as store:
        store.put("a:t:12345678", make(work / "a", {"usr/x": "a"}))
        with store.compose(["a"]) as target, store.compose(["a"]) as native:
            code = mounter.run(
                ["bash", "-c", "cat $W/target/usr/x $W/native/usr/x > out"],
                {f"{NOWHERE}/target": target, f"{NOWHERE}/native": native},
                sandbox=Sandbox(
                    binds=(Bind(os.fsencode(build), NOWHERE.encode()),),
                    directory=NOWHERE.encode(),
                    environment=dict(os.environb) | {b"W": NOWHERE.encode()},
                ),
            )
    assert code == 0
    assert (build / "out").read_text() == "aa"


def test_rebuilt_root_looks_the_same_and_is_read_only(cas: Cas, stored: None) -> None:
    script = (
        "for f in /*; do test -L $f && ls -l $f | cut -d/ -f2- || stat -c '%n %F %u %a' $f; done"
    )
    options = ["--sysroot", f"{NOWHERE}/deep/sysroot=a"]

    def lines(text: str) -> set[str]:
        # The size of a directory, and that of the files of /proc, is of no meaning.
        return {line for line in text.splitlines() if NOWHERE not in line and "/proc" not in line}

    assert lines(_sh(cas, *options, script=script)) == lines(_sh(cas, script=script))
    assert "a" in _sh(cas, *options, script=f"cat {NOWHERE}/deep/sysroot/usr/x")
    for place in ("/new-file", f"{NOWHERE}/new-file", f"{NOWHERE}/deep/sysroot/new-file"):
        done = cas("run", *options, "--", "sh", "-c", f"echo > {place} || exit 9", code=9)
        assert "Read-only file system" in done.stderr
    script = "echo into > /tmp/.cas-test-$$; cat /tmp/.cas-test-$$; rm /tmp/.cas-test-$$"
    assert _sh(cas, *options, script=script) == "into\n"


@pytest.mark.skipif(ROOT, reason="root can make directories everywhere")
def test_mount_point_in_a_foreign_directory(cas: Cas, stored: None) -> None:
    script = "cat /usr/cas-tests/sysroot/usr/x; test -x /usr/bin/env && ls -A /usr/lib | wc -l"
    out = _sh(cas, "--sysroot", "/usr/cas-tests/sysroot=a", script=script)

    assert out == f"a{len(os.listdir('/usr/lib'))}\n"
    assert not os.path.exists("/usr/cas-tests")


@pytest.mark.parametrize(
    ("one", "two", "three"),
    [
        ("/cas-tests-a", "/cas-tests-b", "/cas-tests-c"),
        ("/usr/cas-tests-a", "/cas-tests-b", "/usr/cas-tests-c"),
        ("/usr/cas-tests-a", "/cas-tests-b/deep/sysroot", "/cas-tests-b/c"),
    ],
)
def test_mount_points_in_unwritable_directories(
    cas: Cas, work: Path, stored: None, one: str, two: str, three: str
) -> None:
    if ROOT:
        cas = replace(cas, wrapper=_USR_READ_ONLY)
    there = {place: sorted(os.listdir(place)) for place in ("/", "/usr")}
    bound = make(work / "bound", {"z": "c"})
    options = ["--sysroot", f"{one}=a", "--sysroot", f"{two}=b", "--bind", f"{bound}:{three}"]

    script = f"cat {one}/usr/x {two}/usr/y {three}/z; echo; ls -A / /usr; echo > {three}/new"
    first, *listed = _sh(cas, *options, script=script).splitlines()
    assert first == "abc"
    assert {name for names in there.values() for name in names} <= set(listed)
    for place in {"/", one, two, os.path.dirname(one), os.path.dirname(two)}:
        write = ["sh", "-c", f"echo > {place}/cas-tests-new || exit 9"]
        assert "Read-only file system" in cas("run", *options, "--", *write, code=9).stderr
    assert {place: sorted(os.listdir(place)) for place in there} == there
    assert sorted(os.listdir(bound)) == ["new", "z"]


def test_runs_at_one_missing_path_do_not_disturb_each_other(
    cas: Cas, work: Path, stored: None
) -> None:
    """rmdir(2) of a directory detaches the mounts of other namespaces on it."""
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(
                waiting_run(cas, "--sysroot", "new/sysroot=a", then="cat new/sysroot/usr/x; read _")
            )
            for _ in range(3)
        ]
        runs[0].communicate("\n\n")  # the one that may have made the directory
        assert runs[1].communicate("\n\n")[0] == "a"
        assert runs[2].communicate("\n\n")[0] == "a"
    assert [run.returncode for run in runs] == [0, 0, 0]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1)])
def test_last_of_several_runs_removes_what_they_made_and_nothing_else(
    cas: Cas, work: Path, stored: None, order: tuple[int, ...]
) -> None:
    make(work, {"mine/": None, "also/mine/": None})
    mode = (work / "mine").stat().st_mode
    sysroots = ("new/deep/sysroot=a", "mine/sysroot=b", "also/mine=b")
    options = [f"--sysroot={sysroot}" for sysroot in sysroots]
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(waiting_run(cas, *options, then="cat new/deep/sysroot/usr/x"))
            for _ in order  # one after the other, so the first one has made the directories
        ]
        for number in order:
            assert (work / "new/deep/sysroot").is_dir()
            assert (work / "mine/sysroot").is_dir()
            assert runs[number].communicate("\n")[0] == "a"
            assert runs[number].returncode == 0
    assert sorted(os.listdir(work)) == ["a", "also", "b", "mine", "store"]
    assert os.listdir(work / "mine") == os.listdir(work / "also/mine") == []
    assert (work / "mine").stat().st_mode == mode


def test_run_does_not_deadlock_on_a_locked_directory(cas: Cas, work: Path, stored: None) -> None:
    (work / "place").mkdir()
    run = [
        CAS,
        "--store",
        str(cas.store),
        "run",
        "--sysroot",
        "place=a",
        "--",
        "cat",
        "place/usr/x",
    ]

    done = subprocess.run(
        ["flock", "place", *run], cwd=work, capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stdout == "a"
    assert (work / "place").is_dir()


def test_impossible_bind_is_refused(cas: Cas, work: Path, stored: None) -> None:
    (work / "file").touch()
    for options in (
        ["--bind", "nothing-of-paths"],
        ["--bind", "a:relative"],
        ["--bind", f"missing:{NOWHERE}"],
        ["--bind", f"file:{NOWHERE}"],
        ["--bind", f"a:{work}/file"],
        ["--bind", f"a:{NOWHERE}", "--bind", f"b:{NOWHERE}"],
        ["--bind", f"a:{work}", "--sysroot", "s=a"],  # it would cover the store
        ["--bind", "a:/"],
        ["--share", "nothing"],
        ["--cap", "nothing"],
        ["--env", "=value"],
    ):
        assert cas("run", *options, "--", "true", code=125).stderr.strip()
    missing = cas("run", "--chdir", "/no/such", "--", "true", code=125).stderr
    assert missing.startswith(
        "cas: cannot set up the sandbox: No such file or directory: /no/such\n"
    )
    assert (
        "hint: give a directory"
        in cas("run", "--bind", f"missing:{NOWHERE}", "--", "true", code=125).stderr
    )


def test_working_directory_is_kept_or_changed(cas: Cas, work: Path, stored: None) -> None:
    make(work / "one/two", {})
    deep = ["--sysroot", f"{NOWHERE}/sysroot=a"]  # the root is rebuilt around the caller

    for options in ([], deep):
        assert _sh(cas, *options, script="pwd; /bin/pwd").split() == [str(work)] * 2
        for path, expected in (("one/two", f"{work}/one/two"), ("/usr", "/usr")):
            out = _sh(cas, *options, "--chdir", path, script="pwd; /bin/pwd").split()
            assert out == [expected] * 2
    inner = Cas(cas.store, work / "one")
    assert _sh(inner, *deep, "--chdir", "../one/two", script="pwd") == f"{work}/one/two\n"


def test_read_only_bind_is_read_only(cas: Cas, work: Path, stored: None) -> None:
    bind = ["--bind", f"{work}/a:{NOWHERE}:ro"]

    done = cas("run", *bind, "--", "sh", "-c", f"cat {NOWHERE}/usr/x; echo > {NOWHERE}/y", code=2)

    assert done.stdout == "a"
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_dependency_list_is_split_into_target_and_native(
    cas: Cas, work: Path, as_json: bool
) -> None:
    tasks = {
        "zlib:do_populate_sysroot": "target",
        "glibc:core2-64:do_populate_sysroot": "target",
        "m4-native:do_populate_sysroot": "native",
        "gcc-cross-x86_64:do_populate_sysroot": "native",
        "cmake:do_populate_sysroot_native": "native",
        "nativesdk-x:do_populate_sysroot": "target",
    }
    for number, name in enumerate(tasks):
        recipe = name.partition(":")[0]
        cas("put", f"{name}:{number}2345678", make(work / recipe, {recipe: "", "who": recipe}))
    listed: list[object] = list(tasks)
    text = "# needed\n" + "\n".join(tasks) + "\n"
    if as_json:
        listed[0] = {"id": "zlib", "priority": 7}
        listed[2] = {"id": "m4-native"}
        text = json.dumps(listed)
    (work / "deps").write_text(text)
    out = _sh(
        cas, "--dependencies", "deps", "--conflicts", "ignore",
        script="ls recipe-sysroot recipe-sysroot-native; cat recipe-sysroot/who",
    )  # fmt: skip

    winner = "zlib" if as_json else "nativesdk-x"
    assert out.split() == [
        "recipe-sysroot:", "glibc", "nativesdk-x", "who", "zlib",
        "recipe-sysroot-native:", "cmake", "gcc-cross-x86_64", "m4-native", "who", winner,
    ]  # fmt: skip
    out = _sh(cas, "--dependencies", "deps", "--conflicts", "ignore", "--chdir", NOWHERE,
              "--bind", f"{make(work / 'build', {})}:{NOWHERE}", "--native-sysroot", f"{work}/n",
              script=f"ls {NOWHERE}/recipe-sysroot {work}/n | grep -c .")  # fmt: skip
    assert out == "10\n"


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "[",
        '{"ids": ["a"]}',
        '[{"priority": 1}]',
        '[{"id": "a", "priority": "x"}]',
        '[{"id": "a", "priority": true}]',
        '[{"id": "a", "prio": 1}]',
    ],
)
def test_invalid_dependency_list_is_refused(cas: Cas, work: Path, stored: None, text: str) -> None:
    (work / "deps").write_text(text)

    assert "is invalid" in cas("run", "--dependencies", "deps", "--", "true", code=125).stderr


def test_namespaces_are_private_unless_shared(cas: Cas) -> None:
    names = ("user", "mnt", "pid", "ipc", "net")
    here = {name: os.readlink(f"/proc/self/ns/{name}") for name in names}

    def shared(*options: str) -> set[str]:
        script = "readlink " + " ".join(f"/proc/self/ns/{name}" for name in names)
        there = dict(zip(names, _sh(cas, *options, script=script).split(), strict=True))
        return {name for name in names if there[name] == here[name]}

    assert shared() == set()
    assert shared("--net") == {"net"}
    assert shared("--share", "ipc") == {"ipc"}
    assert shared("--share", "pid", "--share", "net") == {"pid", "net"}


def test_network_is_unreachable_unless_shared_and_loopback_works(cas: Cas) -> None:
    code = (
        "import socket, sys\n"
        "try: socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5); print('reached')\n"
        "except OSError as error: print(error.strerror)\n"
        "own = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(own.getsockname(), 5); print('loopback')\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = ["--", sys.executable, "-c", code, str(server.getsockname()[1])]
        assert cas("run", *command).stdout == "Connection refused\nloopback\n"
        assert cas("run", "--net", *command).stdout == "reached\nloopback\n"


def _status(cas: Cas, *options: str) -> dict[str, str]:
    lines = _sh(cas, *options, script="cat /proc/self/status").splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


@pytest.mark.parametrize("options", [[], ["--map-root"]])
def test_capabilities_are_dropped_across_exec(cas: Cas, options: list[str]) -> None:
    status = _status(cas, *options)

    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert int(status[f"Cap{kind}"], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split()[0] == ("0" if options else str(os.getuid()))


def test_requested_capabilities_are_kept(cas: Cas, work: Path) -> None:
    status = _status(cas, "--cap", "chown", "--cap", "CAP_KILL")

    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert int(status[f"Cap{kind}"], 16) == 1 << 0 | 1 << 5, kind
    _sh(cas, "--cap", "all", script="mount -t tmpfs none /tmp && umount /tmp")
    cas("run", "--map-root", "--", "mount", "-t", "tmpfs", "none", "/tmp", code=32)


def test_root_inside_maps_to_the_caller(cas: Cas, work: Path) -> None:
    out = _sh(cas, "--map-root", script="id -u; id -g; touch made; stat -c %u made")

    assert out == "0\n0\n0\n"
    assert (work / "made").stat().st_uid == os.getuid()


def test_environment_is_passed_changed_or_cleared(
    cas: Cas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE", "1")
    monkeypatch.setenv("TWO", "2")
    script = 'echo "$ONE,$TWO,$THREE,$(env | wc -l)"'

    assert _sh(cas, script=script).startswith("1,2,,")
    assert _sh(cas, "--env", "ONE=x", "--env", "THREE=a=b", script=script).startswith("x,2,a=b,")
    cleared = ["--clear-env", "--env", "TWO", "--env", "THREE=3", "--env", "MISSING"]
    assert _sh(cas, *cleared, script=script).startswith(",2,3,")
    done = cas("run", "--clear-env", "--env", "A=b", "--", "env")
    assert done.stdout == "A=b\n"


def test_command_in_a_shared_pid_namespace_ends_with_cas(cas: Cas) -> None:
    command = [CAS, "run", "--share", "pid", "--", "sh", "-c", "echo $$; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}/comm").exists()
        process.kill()
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}/comm") and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel is at it
    assert not os.path.exists(f"/proc/{pid}/comm")


@pytest.mark.skipif(not ROOT, reason="only root can be two users")
def test_mount_point_is_shared_between_users(cas: Cas, work: Path, stored: None) -> None:
    work.chmod(0o777)
    (work / "place").mkdir()
    (work / "place").chmod(0o777)
    make(work / "c", {"usr/z": "c"})
    own = work / "private"
    own.mkdir()
    os.chown(own, 4242, 4242)
    others = as_user(replace(cas, store=own / "store"), 4242)
    others("put", "c:t:12345678", work / "c")
    with waiting_run(cas, "--sysroot", "place/made/s=a", then="cat place/made/s/usr/x") as first:
        script = "cat place/made/s/usr/z"
        done = others("run", "--sysroot", "place/made/s=c", "--", "sh", "-c", script)
        assert done.stdout == "c"
        assert first.communicate("\n")[0] == "a"
    assert os.listdir(work / "place") == []
