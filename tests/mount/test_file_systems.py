"""Places of stores and targets: each works, or is refused with its path and a reason.

Mounts that a test needs are made in a user and mount namespace of their own, which any user has.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from cas.store import Store
from tests.helpers.index import change_record
from tests.helpers.support import CAS, ROOT, Cas, make, snapshot

pytestmark = pytest.mark.per_user

FILES = {"usr/x": "x", "usr/bin/tool*": "#!/bin/sh\necho tool\n", "l@": "usr", "empty/": None}


@pytest.fixture
def tree(cas: Cas, work: Path) -> Path:
    made = make(work / "tree", FILES)
    cas("put", "a:t:12345678", made)
    cas("put", "e:t:12345678", make(work / "nothing", {}))
    return made


def _in_namespace(work: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root of a user namespace, with mounts of its own; `cas` is $CAS."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc", script]
    done = subprocess.run(
        command,
        cwd=work,
        capture_output=True,
        text=True,
        env=os.environ | {"CAS": CAS},
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


_USE = """
$CAS --store STORE mount target a
cp -a target seen
$CAS --store STORE umount target
test ! -e target/usr
$CAS --store STORE run --sysroot s=a -- cp -a s seen-in-run
$CAS --store STORE run --rw --sysroot s=a -- sh -c 'echo new > s/usr/new; cat s/usr/new'
"""


@pytest.mark.parametrize(
    ("prepare", "store"),
    [
        ("mkdir m; mount -t tmpfs none m; $CAS --store m/store put a:t:12345678 tree", "m/store"),
        (
            "mkdir l u w m; mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w,userxattr m;"
            "$CAS --store m/store put a:t:12345678 tree",
            "m/store",
        ),
        ("$CAS --store 'a b:c,d' put a:t:12345678 tree", "'a b:c,d'"),
        ("mount --bind store store; mount -o remount,bind,ro store", "store"),
    ],
    ids=["tmpfs", "overlayfs", "odd path", "read-only"],
)
def test_store_works_at_any_path(work: Path, tree: Path, prepare: str, store: str) -> None:
    done = _in_namespace(work, prepare + _USE.replace("STORE", store))

    assert done.returncode == 0, done.stderr
    assert "target: overlay" in done.stdout
    assert done.stdout.endswith("new\n")
    assert snapshot(work / "seen") == snapshot(work / "seen-in-run") == snapshot(tree)
    assert "not overlaid" not in done.stderr


def test_read_only_store_refuses_changes(work: Path, tree: Path) -> None:
    script = """
        mount --bind store store; mount -o remount,bind,ro store
        exits() { code=$1; shift; c=0; "$@" 2>> errors || c=$?; test $c = $code; }
        exits 5 $CAS --store store mount target a --strategy hardlink
        exits 5 $CAS --store store mount target a --strategy copy
        test ! -e target
        exits 1 $CAS --store store put b:t:12345678 tree
        exits 1 $CAS --store store rm a
        exits 1 $CAS --store store umount tree
        $CAS --store store ls > listed
        $CAS --store store which usr/x a >> listed
        $CAS --store store doctor > doctor
        mkdir target; $CAS --store store mount target a
        exits 8 $CAS --store store mount target a
        $CAS --store store umount target; rmdir target
    """
    done = _in_namespace(work, script)

    errors = (work / "errors").read_text()
    assert done.returncode == 0, errors + done.stderr
    assert "the store is on a read-only file system" in errors
    assert "Read-only file system" in errors
    assert re.search(r"^store writable +no ", (work / "doctor").read_text(), re.MULTILINE)
    assert "wins" in (work / "listed").read_text()


def test_read_only_store_of_an_earlier_boot_is_rechecked(work: Path, tree: Path) -> None:
    with Store(work / "store") as store:
        artifact = store.resolve("a")
        change_record(store, artifact, boot_id="another")
    script = """
        mount --bind store store; mount -o remount,bind,ro store
        $CAS --store store run --sysroot s=a -- cat s/usr/x
    """
    assert _in_namespace(work, script).stdout == "x"
    layer = work / "store/layers" / artifact.tree
    (layer / "usr/x").unlink()
    done = _in_namespace(work, script)
    assert done.returncode == 125
    assert "no such ID" in done.stderr


def test_target_on_another_file_system_or_on_a_mount_point(work: Path, tree: Path) -> None:
    script = """
        mkdir other; mount -t tmpfs none other
        $CAS --store store mount other/deep/target a; cp -a other/deep/target seen
        $CAS --store store umount other/deep/target; test ! -e other/deep
        $CAS --store store mount other a; cp -a other seen-too   # on top of the tmpfs
        $CAS --store store umount other; touch other/still-a-tmpfs
        $CAS --store store mount other/t a --strategy hardlink && exit 9
        $CAS --store store mount other/t a --strategy copy; cp -a other/t copied
        $CAS --store store umount other/t
        mount -o remount,bind,ro other
        $CAS --store store mount other/t a && exit 9
        true
    """
    done = _in_namespace(work, script)

    assert done.returncode == 0, done.stderr
    for seen in ("seen", "seen-too", "copied"):
        assert snapshot(work / seen) == snapshot(tree)
    assert "the store is on another file system" in done.stderr
    assert f"Read-only file system: {work}/other/t" in done.stderr


@pytest.mark.skipif(ROOT, reason="modes do not bind root")
def test_unwritable_target_is_refused_with_its_path(cas: Cas, work: Path, tree: Path) -> None:
    (work / "closed").mkdir()
    (work / "closed/target").mkdir()
    (work / "closed").chmod(0o555)

    for target in ("closed/new", "closed/target"):
        assert f"{work}/closed" in cas("mount", target, "a", code=1).stderr
    assert os.listdir(work / "closed") == ["target"]
    assert os.listdir(cas.store / "mounts") == []


def test_run_covers_any_directory_and_refuses_the_rest(cas: Cas, work: Path, tree: Path) -> None:
    make(work / "full", {"own": "own"})
    (work / "file").touch()
    (work / "link").symlink_to("full")
    (work / "dangling").symlink_to("missing")

    for path in ("full", "link", "new", "/mnt"):
        assert cas("run", "--sysroot", f"{path}=a", "--", "cat", f"{path}/usr/x").stdout == "x"
    assert (work / "full/own").read_text() == "own"
    assert not (work / "new").exists()
    for path in ("file", "file/below", "store", "store/tmp", ".", "/"):
        done = cas("run", "--sysroot", f"{path}=a", "--", "true", code=125)
        assert "directory" in done.stderr or "overlaps the store" in done.stderr
    cas("run", "--sysroot", "dangling=a", "--", "test", "-e", f"{work}/missing/usr/x")
    assert not (work / "missing").exists()


@pytest.mark.parametrize("strategy", ["hardlink", "copy", *(["overlay"] if ROOT else [])])
def test_composition_of_none_one_doubled_and_empty_artifacts(
    cas: Cas, work: Path, tree: Path, strategy: str
) -> None:
    cas("put", "equal:t:12345678", tree)
    (work / "none").write_text("")
    whole = snapshot(tree)
    for ids, expected in (
        (["--from", "none"], {}),
        (["e"], {}),
        (["a"], whole),
        (["a", "a"], whole),
        (["e", "a", "e"], whole),
        (["a", "equal", "a"], whole),
    ):
        cas("mount", "target", *ids, "--strategy", strategy)
        assert snapshot(work / "target") == expected
        assert stat.S_IMODE((work / "target").stat().st_mode) in (0o755, 0o555)
        cas("umount", "target")
        assert not (work / "target").exists()


@pytest.mark.skipif(ROOT, reason="modes do not bind root")
def test_unwritable_store_is_refused_with_a_reason(cas: Cas, work: Path, tree: Path) -> None:
    """Without a lease, a user with write access could remove the mounted artifacts."""
    (cas.store / "tmp").chmod(0o555)

    done = cas("run", "--sysroot", "s=a", "--", "true", code=125)

    (cas.store / "tmp").chmod(0o755)
    assert "no write permission" in done.stderr
    assert str(cas.store) in done.stderr


def test_uncreatable_store_path_is_named(cas: Cas, work: Path) -> None:
    cas("put", "a:t:12345678", make(work / "tree", {"usr/x": "x"}))

    ran = cas("run", "--sysroot", "/proc/nowhere=a", "--", "true", code=125)
    assert "cannot mount at /proc/nowhere" in ran.stderr
    mounted = cas("mount", "/proc/nowhere", "a", code=1)
    assert "No such file or directory: /proc/nowhere" in mounted.stderr


def test_senseless_paths_are_refused(cas: Cas, work: Path) -> None:
    cas("put", "a:t:12345678", make(work / "tree", {"usr/x": "x"}))
    (work / "file").write_text("")

    assert "is empty" in cas("mount", "", "a", code=8).stderr
    assert "is not a directory" in cas("mount", "t", "a", "--upper", "file", code=8).stderr
    assert "is not empty" in cas("mount", "t", "a", "--upper", "tree", code=8).stderr
    assert snapshot(work / "tree") == snapshot(make(work / "same", {"usr/x": "x"}))
    bind = ("run", "--bind", "tree:/w:xx", "--", "true")
    assert "is not DIR:/PATH" in cas(*bind, code=125).stderr
    assert not (work / "t").exists()
