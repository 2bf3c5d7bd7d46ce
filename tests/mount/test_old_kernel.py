"""Kernels before Linux 6.5, forced upon the command: overlays by the option string of mount(2)."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest

from cas.store import Store
from cas.system.directories import open_directory
from mounter.overlay import overlay
from mounter.plan import Plan, StrategyRefused
from tests.helpers.running import strace
from tests.helpers.support import CAS, ROOT, Cas, make, mount_lines, snapshot

pytestmark = pytest.mark.per_user

# No new mount API at all (before 5.2), and one without `lowerdir+` (before 6.5).
FAULTS = ["fsopen:error=ENOSYS", "fsconfig:error=EINVAL"]


def _on_old_kernel(
    cas: Cas, *arguments: str | bytes, fault: str
) -> subprocess.CompletedProcess[str]:
    log = cas.directory / "trace"
    traced = strace("trace=mount,fsopen,fsconfig", f"inject={fault}", log=log)
    command: list[str | bytes | Path] = [*traced, CAS, "--store", cas.store, *arguments]
    done = subprocess.run(command, cwd=cas.directory, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert ' "overlay", ' in log.read_text()  # the arguments of mount(2)
    return done


@pytest.fixture(params=[b"plain", b"co:lon, com,ma", b"back\\slash\n\xff", b"long" * 60])
def odd(work: Path, request: pytest.FixtureRequest) -> Cas:
    """The command with a store of two artifacts at a path with odd characters."""
    store = Path(os.fsdecode(os.path.join(os.fsencode(work), request.param, b"store")))
    with Store(store, create=True) as made:
        made.put("a:t:12345678", make(work / "a", {"usr/x": "a", "usr/a": ""}))
        made.put("b:t:12345678", make(work / "b", {"usr/x": "b", "usr/b": ""}))
    return Cas(store, work)


@pytest.mark.parametrize("fault", FAULTS)
def test_run_works_for_odd_store_paths_on_an_old_kernel(odd: Cas, work: Path, fault: str) -> None:
    script = "cat s/usr/x; ls s/usr | wc -l; echo > s/usr/x || exit 0; exit 9"
    done = _on_old_kernel(
        odd, "run", "--conflicts", "ignore", "--sysroot", "s=a,b", "--", "sh", "-c", script,
        fault=fault,
    )  # fmt: skip

    assert done.stdout == "b3\n"
    assert "Read-only file system" in done.stderr
    assert "not overlaid" not in done.stderr


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
@pytest.mark.parametrize("fault", FAULTS)
def test_mount_and_umount_work_on_an_old_kernel(odd: Cas, work: Path, fault: str) -> None:
    done = _on_old_kernel(odd, "mount", "target", "a", fault=fault)

    assert done.stdout == f"{work}/target: overlay\n"
    assert snapshot(work / "target") == snapshot(work / "a")
    mounted = Path("/proc/self/mounts").read_text(errors="replace")
    options = next(line for line in mounted.splitlines()
               if f"{work}/target" in line).split()[3].split(",")  # fmt: skip
    assert {"ro", "nosuid", "nodev"} <= set(options)
    odd("umount", "target")
    assert not (work / "target").exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_layers_beyond_500_are_merged(work: Path, fault: str) -> None:
    store = work / ("long" * 50) / "co:lon, com,ma" / "store"
    with Store(store, create=True) as made:
        for number in range(510):
            made.put(f"r{number}:t:12345678", make(work / f"t/{number}", {str(number): ""}))
    cas = Cas(store, work)
    for count in (500, 510):
        (work / "ids").write_text("\n".join(f"r{number}" for number in range(count)))
        run = ["run", "--sysroot-from", "s=ids", "--", "sh", "-c", "ls s | wc -l"]
        done = _on_old_kernel(cas, *run, fault=fault)
        assert (done.stdout, done.stderr) == (f"{count}\n", "")


def test_writable_overlay_works_on_an_old_kernel(work: Path, cas: Cas) -> None:
    cas("put", "a:t:12345678", make(work / "a", {"usr/x": "a"}))
    script = "echo new > s/usr/new && rm s/usr/x && mkdir s/usr/x && ls s/usr"
    for options, fault in (
        (["--rw"], "fsconfig:error=EINVAL:when=4+"),  # the first three are those of the tmpfs
        (["--upper", "changes"], "fsconfig:error=EINVAL"),
    ):
        run = ["run", *options, "--sysroot", "s=a", "--", "sh", "-c", script]
        assert _on_old_kernel(cas, *run, fault=fault).stdout == "new\nx\n"
    assert (work / "changes/upper/usr/new").exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_doctor_reports_overlays_on_an_old_kernel(cas: Cas, fault: str) -> None:
    done = _on_old_kernel(cas, "doctor", "--json", fault=fault)

    found = {finding["name"]: finding["works"] for finding in json.loads(done.stdout)}
    assert found["overlay in a user namespace"] is True
    assert found["overlay with privileges"] is ROOT


def test_mount_options_beyond_a_page_are_never_tried(work: Path) -> None:
    """mount(2) cuts its options after one page without a word: another tree would be mounted."""
    with Store(work / "store", create=True) as store:
        tree = store.put("a:t:12345678", make(work / "a", {"x": ""})).artifact.tree
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        (work / "target").mkdir()
        plan = Plan(os.fsencode(work / "store"), (tree,) * 1200, os.fsencode(work / "target"))
        with (
            open_directory(plan.target) as target,
            pytest.raises(StrategyRefused, match="does not fit"),
        ):
            overlay.mount_by_options(plan, "cas", target, None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(work / "target") == []
    assert str(work) not in mount_lines()
