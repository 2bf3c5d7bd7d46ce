"""Sysroots that take changes: where those go, and that the store never sees them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import mounter
from cas.errors import InputRefused
from cas.store import Store
from mounter import Strategy
from tests.helpers.running import strace, waiting_run
from tests.helpers.support import CAS, ROOT, Cas, Tree, make, mount_lines, snapshot

pytestmark = pytest.mark.per_user

CHANGES = (
    "cd {}; echo new > usr/new; rm usr/gone; mv usr/dir usr/moved; "
    "sed -i s/old/edited/ usr/edit; rm -r usr/tree; mkdir usr/tree; chmod u+w usr/x; echo y > usr/x"
)
STRATEGIES = ["copy", *(["overlay"] if ROOT else [])]


@pytest.fixture
def tree(cas: Cas, work: Path) -> Path:
    made = make(
        work / "tree",
        {"usr/x": "x", "usr/gone": "", "usr/dir/f": "f", "usr/edit": "old", "usr/tree/deep/f": ""},
    )
    cas("put", "a:t:12345678", made)
    cas("put", "b:t:12345678", make(work / "b", {"usr/b": "b"}))
    return made


def _changed(tree: Path, work: Path) -> Tree:
    """Return the tree that the changes give, made in a copy."""
    subprocess.run(["cp", "-a", tree, work / "expected"], check=True)
    subprocess.run(["bash", "-euc", CHANGES.format(work / "expected")], check=True)
    return snapshot(work / "expected")


def _content(store: Path) -> Tree:
    """Return the files of the store without its index, records and leases."""
    places = (b"layers", b"objects", b"manifests", b"artifacts")
    return {p: e for p, e in snapshot(store).items() if p.split(b"/")[0] in places}


def test_run_discards_changes(cas: Cas, work: Path, tree: Path) -> None:
    before = _content(cas.store)
    script = f"set -e; {CHANGES.format('s')}; cd usr; cat new x edit"
    done = cas("run", "--rw", "--sysroot", "s=a,b", "--", "bash", "-c", script)

    assert done.stdout.split()[:3] == ["new", "y", "edited"]
    assert cas("run", "--rw", "--sysroot", "s=a", "--", "cat", "s/usr/x").stdout == "x"
    assert _content(cas.store) == before
    assert not (work / "s").exists()
    cas("run", "--sysroot", "s=a", "--", "touch", "s/usr/new", code=1)
    # A file that is read-only by its mode stays so, unless the command may override that.
    write = ["--rw", "--sysroot", "s=a", "--", "sh", "-c", "echo y > s/usr/x && cat s/usr/x"]
    cas("run", *write, code=2)
    assert cas("run", "--cap", "dac_override", *write).stdout == "y\n"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_umount_discards_changes(cas: Cas, work: Path, tree: Path, strategy: str) -> None:
    before = _content(cas.store)
    (work / "target").mkdir()
    cas("mount", "target", "a", "--rw", "--strategy", strategy)
    subprocess.run(["bash", "-euc", CHANGES.format(work / "target")], check=True)

    assert snapshot(work / "target") == _changed(tree, work)
    assert _content(cas.store) == before
    cas("umount", "target")
    assert os.listdir(work / "target") == []
    assert str(work) not in mount_lines()
    cas("mount", "target", "a", "--rw", "--strategy", strategy)
    assert snapshot(work / "target") == snapshot(tree)
    cas("umount", "target")


def test_upper_directory_keeps_changes_from_run_to_run(cas: Cas, work: Path, tree: Path) -> None:
    before = _content(cas.store)
    run = ["run", "--sysroot", "s=a", "--upper", "changes", "--"]
    cas(*run, "bash", "-euc", CHANGES.format("s"))

    assert (work / "changes/upper/usr/new").read_text() == "new\n"
    script = f"cp -a s {work}/seen"
    cas(*run, "bash", "-euc", script)
    assert snapshot(work / "seen") == _changed(tree, work)
    assert _content(cas.store) == before
    if ROOT:  # and from there to a mount
        cas("mount", "target", "a", "--upper", "changes")
        assert snapshot(work / "target") == snapshot(work / "expected")
        cas("umount", "target")


def test_upper_directory_can_be_deleted_by_its_owner(cas: Cas, work: Path, tree: Path) -> None:
    cas("run", "--sysroot", "s=a", "--upper", "changes", "--", "touch", "s/new")
    assert os.stat(work / "changes/work/work").st_mode & 0o777 == 0o700
    shutil.rmtree(work / "changes")


def test_readers_share_an_upper_directory_and_exclude_writers(
    cas: Cas, store: Store, work: Path, tree: Path
) -> None:
    cas("run", "--sysroot", "s=a", "--upper", "changes", "--", "bash", "-euc", CHANGES.format("s"))
    with store.compose(["a"]) as composition:
        changes = os.fsencode(work / "changes")
        plans = [mounter.planned(composition, work / name)._replace(upper=changes) for name in "st"]
        assert mounter.Plan.load(plans[0].dump()) == plans[0]._replace(lease=None)
        script = (
            f"cd {work}; ! touch s/other t/other; cp -a s seen-s; cp -a t seen-t; "
            f"{CAS} --store {cas.store} run --sysroot u=a --upper changes -- true || echo $? >code"
        )
        assert mounter.run_plans(["sh", "-c", script], plans) == 0
        with pytest.raises(InputRefused, match="read-only beyond this process"):
            mounter.carry_out(plans[0])
    assert (work / "code").read_text() == "125\n"
    expected = _changed(tree, work)
    assert snapshot(work / "seen-s") == snapshot(work / "seen-t") == expected


def test_each_of_two_sysroots_has_its_own_upper_directory(cas: Cas, work: Path, tree: Path) -> None:
    roots = ["--sysroot", "one=a", "--sysroot", "two=b"]
    script = "echo 1 > one/usr/new; touch two/usr/new && exit 9; cat one/usr/new"
    options = ["--upper", "one=changes"]
    assert cas("run", *roots, *options, "--", "bash", "-c", script).stdout == "1\n"
    for wrong in (["changes"], ["three=changes"], ["one=x", "--upper", "one=y"]):
        cas("run", *roots, "--upper", *wrong, "--", "true", code=125)


def test_second_writer_of_an_upper_directory_is_refused(cas: Cas, work: Path, tree: Path) -> None:
    options = ["--sysroot", "s=a", "--upper", "changes"]
    run = ["run", *options, "--"]
    with waiting_run(cas, *options) as first:
        assert "in use" in cas(*run, "true", code=125).stderr
        assert "in use" in cas("mount", "t", "a", "--upper", "changes", code=7).stderr
        first.communicate("\n")
    both = ["run", "--sysroot", "s=a", "--sysroot", "t=a"]
    uppers = ["--upper", "s=changes", "--upper", "t=./changes"]
    assert "in use" in cas(*both, *uppers, "--", "true", code=125).stderr
    cas(*run, "true")
    for inside in (cas.store / "upper", work / "s/upper"):
        cas("run", "--sysroot", "s=a", "--upper", inside, "--", "true", code=125)


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
def test_upper_directory_of_a_mount_is_in_use_until_it_is_unmounted(
    cas: Cas, work: Path, tree: Path
) -> None:
    cas("mount", "target", "a", "--upper", "changes")

    assert "in use" in cas("mount", "other", "a", "--upper", "changes", code=7).stderr
    run = ["run", "--sysroot", "s=a", "--upper", "changes", "--", "true"]
    assert "in use" in cas(*run, code=125).stderr
    cas("umount", "target")
    cas(*run)
    cas("mount", "target", "a", "--upper", "changes")
    subprocess.run(["umount", work / "target"], check=True)  # by hand
    cas(*run)
    cas("umount", "target")


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
@pytest.mark.parametrize("by", ["cas", "read-only"])
def test_upper_directory_is_in_use_under_any_name_and_from_any_store(
    cas: Cas, work: Path, tree: Path, by: str
) -> None:
    make(work, {"read-only/": None, "bound/": None})
    subprocess.run(["mount", "--bind", cas.store, work / "read-only"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", work / "read-only"], check=True)
    read_only = Cas(work / "read-only", work)
    user = cas if by == "cas" else read_only
    user("mount", "target", "a", "--upper", "changes")
    (work / "changes").rename(work / "renamed")
    subprocess.run(["mount", "--bind", work / "renamed", work / "bound"], check=True)

    for other in (cas, read_only):
        for upper in ("renamed", "bound"):
            mount = ["mount", "other", "a", "--upper", upper]
            assert "in use by a mount" in other(*mount, code=7).stderr
            run = ["run", "--sysroot", "s=a", "--upper", upper, "--", "true"]
            assert "in use by a mount" in other(*run, code=125).stderr
    assert not (work / "other").exists()
    user("umount", "target")
    for upper in ("renamed", "bound"):
        cas("mount", "other", "a", "--upper", upper)
        (work / "other/new").write_text("new")
        cas("umount", "other")
        (work / "renamed/upper/new").unlink()


def test_upper_directory_may_have_an_equals_sign_in_its_name(
    cas: Cas, work: Path, tree: Path
) -> None:
    for given, upper in (("a=b", "a=b"), (f"{work}/x=y", "x=y"), ("s=c=d", "c=d")):
        run = ["run", "--sysroot", "s=a", "--upper", given, "--", "touch", "s/new"]
        cas(*run)
        assert (work / upper / "upper/new").exists()


def test_writable_sysroot_is_never_linked_to_the_store(cas: Cas, work: Path, tree: Path) -> None:
    assert (
        "must not be linked"
        in cas("mount", "target", "a", "--rw", "--strategy", "hardlink", code=5).stderr
    )
    cas("run", "--sysroot", "s=a", "--rw", "--strategy", "hardlink", "--", "true", code=125)
    script = "stat -c %h s/usr/x; echo new > s/usr/new; cat s/usr/new"
    out = cas("run", "--sysroot", "s=a", "--rw", "--strategy", "copy", "--", "sh", "-c", script)
    assert out.stdout == "1\nnew\n"
    assert (
        "overlay only"
        in cas("mount", "target", "a", "--upper", "changes", "--strategy", "copy", code=5).stderr
    )
    if not ROOT:
        assert cas.json("mount", "target", "a", "--rw")["strategy"] == "copy"
        cas("umount", "target")


def test_writable_sysroot_of_no_or_one_artifact_works(store: Store, work: Path) -> None:
    store.put("a:t:12345678", make(work / "tree", {"x": "1"}))
    for names in ([], ["a"]):
        with store.compose(names) as composition:
            place = work / "s"
            command = ["sh", "-c", f"echo new > {place}/new && test -s {place}/new"]
            assert mounter.run(command, {place: composition}, writable=True) == 0
            with mounter.mounted(composition, work / "t", Strategy.COPY, writable=True):
                (work / "t/new").write_text("new")
            assert not (work / "t").exists()


@pytest.mark.parametrize("target", ["mine", "nowhere", None])
def test_link_as_upper_directory_lock_is_refused(
    cas: Cas, work: Path, tree: Path, target: str | None
) -> None:
    """The owner of the directory can put anything there before root uses it."""
    (work / "mine").write_text("mine")
    (work / "changes").mkdir()
    lock = work / "changes/lock"
    os.mkfifo(lock) if target is None else lock.symlink_to(work / target)

    run = ["run", "--sysroot", "s=a", "--upper", "changes", "--", "true"]
    assert "is not a regular file" in cas(*run, code=125).stderr
    assert "is not a regular file" in cas("mount", "t", "a", "--upper", "changes", code=8).stderr
    assert (work / "mine").read_text() == "mine"
    assert not (work / "nowhere").exists()


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
def test_upper_directory_is_free_after_umount_in_a_namespace(
    cas: Cas, work: Path, tree: Path
) -> None:
    mount = f"{CAS} --store store mount t a --upper changes && {CAS} --store store umount t"
    subprocess.run(["unshare", "--mount", "sh", "-euc", mount], cwd=work, check=True)

    cas("mount", "t", "a", "--upper", "changes")
    cas("umount", "t")


@pytest.mark.skipif(not ROOT, reason="only root mounts where others see it")
def test_writable_mount_killed_before_its_overlay_is_taken_away_by_umount(
    cas: Cas, work: Path, tree: Path
) -> None:
    kill = "inject=move_mount:signal=KILL:when=2"
    mount = [CAS, "--store", str(cas.store), "mount", "t", "a", "--rw"]
    command = [*strace("trace=move_mount", kill), *mount]
    assert subprocess.run(command, cwd=work, check=False).returncode != 0

    assert "cas umount" in cas("mount", "t", "a", "--rw", code=7).stderr
    cas("umount", "t")
    assert str(work) not in mount_lines()
    cas("mount", "t", "a", "--rw")
    cas("umount", "t")


def test_failed_mount_leaves_the_upper_directory_free(cas: Cas, work: Path, tree: Path) -> None:
    """In a namespace that lives on, such as a login shell's."""
    private = ("unshare", "--user", "--map-current-user", "--keep-caps", "--mount")
    alone = replace(cas, wrapper=private)
    refused = replace(cas, wrapper=("setpriv", "--bounding-set=-sys_admin") if ROOT else ())
    mount = ("mount", "t", "a", "--upper", "changes")
    alone(*mount)  # it ends with its namespace
    cas("umount", "--forget", "t")

    assert "EPERM" in refused(*mount, code=5).stderr
    alone(*mount)
