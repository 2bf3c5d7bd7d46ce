"""Where the kernel says no, for real: the same tree comes by links, and the reason is told."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import CAS, ROOT, Cas, make, snapshot

# A user namespace in which no further one may be made, and then no capability either.
_NO_NAMESPACES = [
    "unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-euc",
    'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all '
    '--inh-caps=-all --ambient-caps=-all "$@"', "sh",
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
        cas, "run", "--sysroot", "sysroot=a", "--", "sh", "-c", script, wrapper=_NO_NAMESPACES
    )

    assert done.stdout == "atool\n3\n"
    assert done.returncode == 6
    assert "no namespaces here" in done.stderr
    assert not (work / "sysroot").exists()
    assert os.listdir(cas.store / "mounts") == os.listdir(cas.store / "leases") == []


def test_doctor_tries_and_tells_what_is_refused(cas: Cas, tree: Path) -> None:
    done = _without_privileges(cas, "doctor", "--json", wrapper=_NO_NAMESPACES)
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
        "detail": f"{cas.store}: 1 artifacts, format 1",
    }
    assert os.listdir(cas.store / "tmp") == []


def test_doctor_without_a_store_makes_none(cas: Cas) -> None:
    assert "no store" in cas("doctor").stdout
    assert os.listdir(cas.directory) == []


def test_doctor_tells_of_a_damaged_store(cas: Cas, tree: Path) -> None:
    (manifest,) = (cas.store / "manifests").iterdir()
    manifest.unlink()

    assert "a:t:12345678: its layer or manifest is missing" in cas("doctor", code=6).stdout


def test_run_with_namespaces_but_no_overlay_binds_a_linked_tree(cas: Cas, work: Path) -> None:
    """More layers than overlayfs takes is a refusal that any kernel gives."""
    from cas.store import Store

    with Store(cas.store, create=True) as store:
        for number in range(501):
            store.put(f"r{number}:t:12345678", make(work / f"t/{number}", {str(number): "x"}))
    (work / "ids").write_text("\n".join(f"r{number}" for number in range(501)))
    script = "ls sysroot | wc -l; cat sysroot/500; echo y > sysroot/500 || exit 9"

    done = cas("run", "--sysroot-from", "sysroot=ids", "--", "sh", "-c", script, code=9)

    assert done.stdout == "501\nx"
    assert "500 layers at most" in done.stderr
    assert "Read-only file system" in done.stderr
    assert not (work / "sysroot").exists()
    assert os.listdir(cas.store / "tmp") == []
