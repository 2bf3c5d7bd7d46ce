"""`cas run`: the view of the command, invisible to others, and without leftovers."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.running import next_line, start, strace
from tests.helpers.support import CAS, ROOT, Cas, make, mount_lines, snapshot

pytestmark = pytest.mark.per_user


@pytest.fixture
def sysroot(cas: Cas, work: Path) -> str:
    """Stores `a` and `b`; returns the option that composes them at work/sysroot."""
    cas("put", "a:t:12345678", make(work / "a", {"usr/x": "a", "usr/bin/tool*": "#!/bin/sh\n"}))
    cas("put", "b:t:12345678", make(work / "b", {"usr/y": "b"}))
    return f"--sysroot={work}/sysroot=a,b"


def test_exit_code_is_that_of_the_command(cas: Cas, sysroot: str) -> None:
    for script, code in (("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -9 $$", 137)):
        cas("run", sysroot, "--", "sh", "-c", script, code=code)
    assert "not found" in cas("run", sysroot, "--", "no-such-command", code=127).stderr
    assert "Permission" in cas("run", sysroot, "--", "/", code=126).stderr


def test_failure_of_cas_itself_is_125(cas: Cas, work: Path, sysroot: str) -> None:
    (work / "file").touch()
    for arguments in (
        ["--sysroot", "x=nothing", "--", "true"],
        ["--sysroot", "x", "--", "true"],
        ["--sysroot-from", "x=missing", "--", "true"],
        ["--sysroot", "x=a", "--sysroot", "x=b", "--", "true"],
        ["--sysroot", "x=a", "--sysroot", "./x=b", "--", "true"],
        ["--sysroot", "x=a", "--sysroot", "x/y=b", "--", "true"],
        ["--sysroot", "file=a", "--", "true"],
        ["--sysroot", "store/layers=a", "--", "true"],
        ["--nonsense", "--", "true"],
        [],
    ):
        assert cas("run", *arguments, code=125).stderr.strip()
    assert not (work / "x").exists()


def test_run_is_invisible_outside_and_leaves_nothing(cas: Cas, work: Path, sysroot: str) -> None:
    with start(cas, "run", sysroot, "--", "sh", "-c", "cat sysroot/usr/x; echo; read _") as process:
        assert next_line(process) == "a"
        assert os.listdir(work / "sysroot") == []
        assert str(work) not in mount_lines()
        assert len(os.listdir(cas.store / "leases")) == 1
        assert "in use" in cas("rm", "a", code=7).stderr
        process.communicate("go on\n")

    assert process.returncode == 0
    assert not (work / "sysroot").exists()
    assert os.listdir(cas.store / "leases") == []
    cas("rm", "a")


def test_killed_run_ends_its_task_and_lease(cas: Cas, work: Path, sysroot: str) -> None:
    script = "sleep 1000 & echo $$; readlink /proc/self/ns/pid; exec sleep 1000"
    process = start(cas, "run", sysroot, "--", "sh", "-c", script)
    assert next_line(process) == "2"
    namespace = next_line(process)

    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while namespace in _namespaces() and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel is at it

    assert namespace not in _namespaces()
    cas("rm", "a", "b")


def test_background_processes_end_with_the_command(cas: Cas, sysroot: str) -> None:
    script = "setsid sleep 1000 & readlink /proc/self/ns/pid"
    namespace = cas("run", sysroot, "--", "sh", "-c", script).stdout.strip()

    assert namespace.startswith("pid:")
    assert namespace not in _namespaces()


def _namespaces() -> set[str]:
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/pid"))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signal_to_run_reaches_the_command_once(
    cas: Cas, sysroot: str, number: signal.Signals
) -> None:
    code = (
        "import signal, sys\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])\n"
        "print('ready', flush=True)\n"
        f"print(signal.sigwait([{int(number)}]), flush=True)\n"
        f"print(signal.sigtimedwait([{int(number)}], 0.2), flush=True)\n"
        "sys.exit(9)\n"
    )
    with start(cas, "run", sysroot, "--", sys.executable, "-c", code) as process:
        assert next_line(process) == "ready"
        process.send_signal(number)
        assert next_line(process) in (str(int(number)), str(number), repr(number))
        assert next_line(process) == "None"
    assert process.returncode == 9


def test_control_c_on_a_terminal_reaches_the_command_once(cas: Cas, sysroot: str) -> None:
    # Otherwise the terminal may discard output on Ctrl-C (termios(3), NOFLSH).
    script = "stty noflsh; trap 'echo interrupted' INT; echo ready; read _; echo done; exit 5"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cas.directory)
        os.execv(CAS, [CAS, "--store", str(cas.store), "run", sysroot, "--", "bash", "-c", script])
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 100)
    os.write(terminal, b"\x03")
    while b"interrupted" not in seen:
        seen += os.read(terminal, 100)
    os.write(terminal, b"\n")
    while b"done" not in seen:
        seen += os.read(terminal, 100)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(terminal)
    assert seen.count(b"interrupted") == 1


def test_shell_on_a_terminal_has_job_control(cas: Cas, sysroot: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cas.directory)
        os.execv(
            CAS, [CAS, "--store", str(cas.store), "run", sysroot, "--", "bash", "--norc", "-i"]
        )
    seen = b""

    def until(wanted: bytes) -> None:
        nonlocal seen
        while wanted not in seen:
            seen += os.read(terminal, 100)

    os.write(terminal, b"stty noflsh; sh -c 'echo begun''; exec sleep 1000'\n")
    until(b"begun\r\n")
    os.write(terminal, b"\x1a")  # Ctrl-Z
    until(b"Stopped")
    os.write(terminal, b"exit 5\n")
    until(b"There are stopped jobs")
    os.write(terminal, b"exit 5\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(terminal)


def test_command_ends_when_its_terminal_is_closed(cas: Cas, sysroot: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cas.directory)
        os.execv(
            CAS, [CAS, "--store", str(cas.store), "run", sysroot, "--", "bash", "--norc", "-i"]
        )
    os.write(terminal, b"readlink /proc/self/ns/pid; sh -c 'echo be''gun; exec sleep 1000'\n")
    seen = b""
    while b"begun" not in seen:
        seen += os.read(terminal, 100)
    (namespace,) = re.findall(rb"pid:\[[0-9]+\]", seen)

    os.close(terminal)

    os.waitpid(pid, 0)
    assert namespace.decode() not in _namespaces()


def test_input_environment_descriptors_and_ids_are_passed(cas: Cas, sysroot: str) -> None:
    assert cas("run", sysroot, "--", "cat", input="through").stdout == "through"
    reading, writing = os.pipe()
    os.write(writing, b"token")
    os.close(writing)
    command = [CAS, "--store", str(cas.store), "run", sysroot, "--", "bash", "-c",
               f"cat <&{reading}; echo; echo $OWN; id -u; id -g; pwd"]  # fmt: skip
    done = subprocess.run(
        command,
        pass_fds=[reading],
        env=os.environ | {"OWN": "variable"},
        cwd=cas.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    os.close(reading)
    expected = ["token", "variable", str(os.getuid()), str(os.getgid()), str(cas.directory)]
    assert done.stdout.split("\n")[:5] == expected


def test_broken_pipe_ends_the_command(cas: Cas, sysroot: str) -> None:
    script = "yes | head -n 1; echo ${PIPESTATUS[0]}"

    assert cas("run", sysroot, "--", "bash", "-c", script).stdout == "y\n141\n"


def test_command_sees_its_own_processes_only(cas: Cas, sysroot: str) -> None:
    script = "echo $$; ls /proc | grep -c '^[0-9]'"

    own, count = cas("run", sysroot, "--", "sh", "-c", script).stdout.split()

    assert own == "2"
    assert int(count) <= 5


def test_sysroot_is_read_only_and_the_store_unchanged(cas: Cas, work: Path, sysroot: str) -> None:
    cas("run", sysroot, "--", "true")  # the store has cached then that there are no conflicts
    before = snapshot(cas.store)
    for attempt in (
        "echo y > sysroot/usr/x",
        "rm sysroot/usr/x",
        "chmod 777 sysroot/usr/x",
        "mv sysroot/usr/x sysroot/usr/z",
        "mkdir sysroot/new",
        "touch sysroot/usr/x",
        "ln -s x sysroot/l",
        "cp -f /bin/true sysroot/usr/bin/tool",
        "mount -o remount,rw sysroot && echo y > sysroot/usr/x",
    ):
        done = cas("run", sysroot, "--", "sh", "-c", f"{attempt} || exit 99", code=99)
        assert done.stderr.strip()
    after = snapshot(cas.store)
    for found in (before, after):
        for name in (b"index/data.mdb", b"counts"):
            del found[name]
    assert after == before


def test_sysroot_paths_may_be_relative_or_above_the_working_directory(
    cas: Cas, work: Path, sysroot: str
) -> None:
    make(work / "own", {"usr/mine": "mine"})

    assert cas("run", "--sysroot", "deep/er=a", "--", "cat", "deep/er/usr/x").stdout == "a"
    assert not (work / "deep").exists()
    # A directory with content is covered for the command, and left as it was.
    assert cas("run", "--sysroot", "own=a", "--", "ls", "own/usr").stdout == "bin\nx\n"
    assert (work / "own/usr/mine").read_text() == "mine"
    inner = Cas(cas.store, work / "own/usr")
    assert inner("run", f"--sysroot={work}/own=a", "--", "cat", "x").stdout == "a"


def test_two_sysroots_from_options_and_files(cas: Cas, work: Path, sysroot: str) -> None:
    (work / "ids").write_text("a\nb\n")
    options = ["--sysroot", "one=a", "--sysroot-from", "two=ids", "--sysroot-from", "three=-"]
    done = cas("run", *options, "--", "ls", "one/usr", "two/usr", "three/usr", input="b\n")

    assert done.stdout.split() == [
        "one/usr:", "bin", "x", "three/usr:", "y", "two/usr:", "bin", "x", "y",
    ]  # fmt: skip


def test_runs_nest_although_process_ids_repeat(cas: Cas, sysroot: str) -> None:
    # Since Linux 5.12, root needs a capability to be itself in a user namespace within another.
    nested = ["run", *(["--cap", "setfcap"] if ROOT else []), sysroot, "--"]
    nested += [CAS, "--store", str(cas.store), "run", sysroot, "--"]
    assert cas(*nested, "cat", "sysroot/usr/x").stdout == "a"
    # Process 2 of each sandbox holds a read transaction while the other one reads.
    code = (
        "import os, sys; from cas.store import Store\n"
        f"store = Store({os.fspath(cas.store)!r})\n"
        "with store._storage.index.read() as reader:\n"
        "    print(os.getpid(), len(reader.records()), flush=True); sys.stdin.readline()\n"
    )
    with (
        start(cas, "run", "--", sys.executable, "-c", code) as one,
        start(cas, "run", "--", sys.executable, "-c", code) as two,
    ):
        assert next_line(one) == next_line(two) == "2 2"
        one.communicate("\n")
        two.communicate("\n")
    assert one.returncode == two.returncode == 0


@pytest.mark.skipif(not ROOT, reason="only root has other ids to give")
def test_root_keeps_its_ids(cas: Cas, work: Path, sysroot: str) -> None:
    script = "touch f && chown 4242:4243 f && stat -c %u:%g f"

    assert cas("run", "--cap", "chown", sysroot, "--", "sh", "-c", script).stdout == "4242:4243\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_run_during_set_up(cas: Cas, work: Path, number: signal.Signals) -> None:
    cas("put", "slow:t:12345678", make(work / "slow", {"x": "x"}))
    slowly = strace("inject=unshare:delay_exit=4000000")  # microseconds
    command = [*slowly, CAS, "--store", str(cas.store)]
    with subprocess.Popen(
        [*command, "run", "--sysroot", "s=slow", "--", "touch", "ran"],
        cwd=work,
        start_new_session=True,
    ) as tracer:
        deadline = time.monotonic() + 60
        while not (runs := [m for m in cas.json("mounts") if m["state"] == "running"]):
            assert time.monotonic() < deadline
        time.sleep(0.5)
        os.kill(runs[0]["pid"], number)
        assert tracer.wait() == 128 + number
    assert not (work / "ran").exists()
    assert not (work / "s").exists()
