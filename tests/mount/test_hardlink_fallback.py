"""The kernel really refuses: hard links give the same tree, and the reason is reported."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.running import strace
from tests.helpers.support import CAS, ROOT, Cas, make, snapshot

pytestmark = pytest.mark.per_user

# A user namespace in which no further one may be made, and then no capability either.
_IN_NAMESPACE = ["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-euc"]
_FORBID = "echo 0 > /proc/sys/user/max_user_namespaces; exec"
NO_NAMESPACES = [
    *_IN_NAMESPACE,
    f'{_FORBID} setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all "$@"', "sh",
]  # fmt: skip


@pytest.fixture
def tree(cas: Cas, work: Path) -> Path:
    made = make(work / "tree", {"usr/x": "a", "bin/tool*": "#!/bin/sh\necho tool\n", "l@": "usr"})
    cas("put", "a:t:12345678", made)
    return made


def _without_privileges(
    cas: Cas, *arguments: str, wrapper: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    command = [*wrapper, CAS, "--store", str(cas.store), *arguments]
    done = subprocess.run(
        command, cwd=cas.directory, capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


def test_mount_without_privileges_links_and_says_why(cas: Cas, work: Path, tree: Path) -> None:
    wrapper = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"] if ROOT else []

    done = _without_privileges(cas, "mount", "--json", "target", "a", wrapper=wrapper)

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["strategy"] == "hardlink"
    assert "does not let this user mount" in answer["reasons"][0]
    assert snapshot(work / "target") == snapshot(tree)
    assert (work / "target/usr/x").stat().st_nlink == 3
    refused = _without_privileges(
        cas, "mount", "other", "a", "--strategy", "overlay", wrapper=wrapper
    )
    assert refused.returncode == 5
    assert "does not let this user mount" in refused.stderr
    assert not (work / "other").exists()
    assert _without_privileges(cas, "umount", "target", wrapper=wrapper).returncode == 0
    assert not (work / "target").exists()


def test_run_without_namespaces_links_at_the_path_and_says_why(
    cas: Cas, work: Path, tree: Path
) -> None:
    script = "cat sysroot/usr/x; sysroot/bin/tool; stat -c %h sysroot/usr/x; exit 6"
    done = _without_privileges(
        cas, "run", "--sysroot", "sysroot=a", "--", "sh", "-c", script, wrapper=NO_NAMESPACES
    )

    assert done.stdout == "atool\n3\n"
    assert done.returncode == 6
    assert "refuses namespaces here" in done.stderr
    assert not (work / "sysroot").exists()
    assert os.listdir(cas.store / "mounts") == os.listdir(cas.store / "leases") == []


def test_run_without_namespaces_gives_up_privileges_and_says_what_is_shared(
    cas: Cas, tree: Path
) -> None:
    wrapper = [*_IN_NAMESPACE, f'{_FORBID} "$@"', "sh"]  # with all capabilities
    before = subprocess.run([*wrapper, "cat", "/proc/self/status"], capture_output=True, text=True,
                            check=True).stdout  # fmt: skip
    assert "CapEff:\t0000000000000000\n" not in before
    for sysroots, linked in (([], False), (["--sysroot", "s=a"], True)):
        command = ["run", *sysroots, "--", "cat", "/proc/self/status"]
        done = _without_privileges(cas, *command, wrapper=wrapper)

        assert done.returncode == 0
        assert "CapEff:\t0000000000000000\n" in done.stdout
        assert "CapBnd:\t0000000000000000\n" in done.stdout
        assert "NoNewPrivs:\t1\n" in done.stdout
        assert "shares network, processes and IPC with others" in done.stderr
        assert ("sysroots are linked" in done.stderr) is linked


def test_run_with_masked_proc_reports_visible_processes(cas: Cas) -> None:
    masked = [*_IN_NAMESPACE, 'mount -t tmpfs none /proc/irq; exec "$@"', "sh"]
    masked.insert(1, "--mount")
    command = ["run", "--", "test", "-d", f"/proc/{os.getpid()}/fd"]

    done = _without_privileges(cas, *command, wrapper=masked)

    assert done.returncode == 0
    assert "the command sees the processes of others in /proc" in done.stderr
    assert _without_privileges(cas, *command).stderr == ""


def test_doctor_reports_refused_features(cas: Cas, tree: Path) -> None:
    done = _without_privileges(cas, "doctor", "--json", wrapper=NO_NAMESPACES)
    refused = {finding["name"]: finding for finding in json.loads(done.stdout)}
    allowed = {finding["name"]: finding for finding in cas.json("doctor")}

    assert done.returncode == 0
    for name in ("user namespaces", "overlay in a user namespace", "overlay with privileges"):
        assert refused[name]["works"] is False
        assert refused[name]["detail"]
    assert allowed["user namespaces"]["works"] is True
    assert allowed["overlay in a user namespace"]["works"] is True
    assert allowed["overlay with privileges"]["works"] is ROOT
    assert allowed["store"] == {
        "name": "store",
        "works": True,
        "detail": f"{cas.store}: 1 artifact, format 1",
    }
    assert os.listdir(cas.store / "tmp") == []


def test_doctor_creates_no_store(cas: Cas) -> None:
    assert "no store" in cas("doctor").stdout
    assert os.listdir(cas.directory) == []


def test_doctor_reports_a_damaged_store(cas: Cas, tree: Path) -> None:
    (manifest,) = (cas.store / "manifests").iterdir()
    manifest.unlink()

    assert "is missing (a:t:12345678)" in cas("doctor", code=6).stdout


def test_run_with_namespaces_but_no_overlay_binds_a_linked_tree(
    cas: Cas, work: Path, tree: Path
) -> None:
    no_overlay = strace("inject=fsopen:error=ENODEV")
    script = "cat sysroot/usr/x; stat -c %h sysroot/usr/x; echo y > sysroot/usr/x || exit 9"
    run = ["run", "--sysroot", "sysroot=a", "--", "sh", "-c", script]

    done = _without_privileges(cas, *run, wrapper=no_overlay)

    assert done.returncode == 9
    assert done.stdout == "a3\n"
    assert "are linked, not overlaid: this kernel has no overlayfs" in done.stderr
    assert "Read-only file system" in done.stderr
    assert not (work / "sysroot").exists()
    assert os.listdir(cas.store / "tmp") == []
    # A writable sysroot is copied, and its changes cannot be kept.
    run[-1] = "stat -c %h sysroot/usr/x; echo y > sysroot/usr/y; cat sysroot/usr/y"
    run.insert(1, "--rw")
    assert _without_privileges(cas, *run, wrapper=no_overlay).stdout == "1\ny\n"
    run[1:2] = ["--upper", "changes"]
    refused = _without_privileges(cas, *run, wrapper=no_overlay)
    assert refused.returncode == 125
    assert "overlay" in refused.stderr
    run[1:3] = ["--strategy", "overlay"]
    assert _without_privileges(cas, *run, wrapper=no_overlay).returncode == 125


def test_option_that_needs_namespaces_is_refused_without_them(
    cas: Cas, work: Path, tree: Path
) -> None:
    for options in (
        ["--bind", f"{work}/tree:/work"],
        ["--sysroot", "s=a", "--upper", "changes"],
        ["--sysroot", "s=a", "--strategy", "overlay"],
    ):
        done = _without_privileges(cas, "run", *options, "--", "true", wrapper=NO_NAMESPACES)
        assert done.returncode == 125
        assert "refuses namespaces here" in done.stderr
    assert not (work / "s").exists()
    options = ["--chdir", "tree", "--clear-env", "--env", "A=b", "--rw", "--sysroot", f"{work}/s=a"]
    script = f"pwd; echo $A; cd {work}/s/usr; echo new > new; cat new; stat -c %h x"
    done = _without_privileges(
        cas, "run", *options, "--", "/bin/sh", "-c", script, wrapper=NO_NAMESPACES
    )
    assert done.stdout == f"{work}/tree\nb\nnew\n1\n"
    assert not (work / "s").exists()
