"""sstate objects of BitBake go into the store without being unpacked, and come out again."""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from cas.errors import ExitCode
from cas.store import Store
from tests.helpers.archives import (
    HASH,
    Member,
    archive,
    compressed,
    directory,
    member,
    sstate_name,
    symlink,
    write_sstate,
)
from tests.helpers.support import (
    CAS,
    Cas,
    make,
    objects_of,
    shown_on_terminal,
    snapshot,
    sound,
    tidy,
)

FIXMES = "sysroot-destdir/usr/bin/zlib-config\n"
TARGET: list[Member] = [
    member("fixmepath", FIXMES.encode()),
    directory("sysroot-destdir"),
    directory("sysroot-destdir/usr"),
    member("sysroot-destdir/usr/bin/zlib-config", b"FIXMESTAGINGDIRTARGET/usr\n", mode=0o755),
    member("sysroot-destdir/usr/include/zlib.h", b"int deflate();\n"),
    symlink("sysroot-destdir/usr/lib/libz.so", "libz.so.1"),
]
NATIVE: list[Member] = [
    directory("recipe-sysroot-native"),
    member("recipe-sysroot-native/usr/bin/tool", b"\x7fELF", mode=0o755),
]


def imported(cas: Cas, path: Path, code: int = 0) -> list[dict[str, Any]]:
    """Import a path; return the outcome of each object."""
    done: list[dict[str, Any]] = cas.json("import", "sstate", path, code=code)["objects"]
    return done


def test_sstate_object_is_stored_under_the_id_in_its_name(tmp_path: Path, cas: Cas) -> None:
    path = write_sstate(tmp_path / "4c/f1", "zlib", TARGET)
    said = imported(cas, path)
    whole = f"zlib:core2-64:do_populate_sysroot:{HASH}"
    assert [(one["id"], one["status"], one["path"]) for one in said] == [
        (whole, "stored", str(path))
    ]
    tree = make(tmp_path / "tree", {
        "usr/bin/zlib-config*": "FIXMESTAGINGDIRTARGET/usr\n",
        "usr/include/zlib.h": "int deflate();\n",
        "usr/lib/libz.so@": "libz.so.1",
        "sysroot-fixmepath/zlib": FIXMES,
    })  # fmt: skip
    assert cas.json("put", "same:t:11111111", tree)["tree"] == said[0]["tree"]
    sound(cas.store)


def test_sstate_directory_is_imported(tmp_path: Path, cas: Cas) -> None:
    mirror, local = tmp_path / "mirror", tmp_path / "sstate-cache"
    write_sstate(local / "4c/f1", "zlib", TARGET)
    native = {"arch": "x86_64", "hash": "a" * 64}
    write_sstate(local / "universal/aa/aa", "tool-native", NATIVE, **native)
    old = local / "bb" / sstate_name("old", hash="b" * 32, end="tgz")
    old.parent.mkdir()
    with tarfile.open(old, "w:gz") as file:
        file.addfile(directory("sysroot-destdir")[0])
    linked = write_sstate(mirror, "linked", TARGET)
    (local / linked.name).symlink_to(linked)
    for name in (
        sstate_name("zlib").replace("populate_sysroot", "package"),
        sstate_name("zlib") + ".siginfo",
        sstate_name("zlib") + ".sig",
        "sstate:zlib::1.0:r0::14:" + HASH + "_fetch.tgz.siginfo",
        "README",
    ):
        (local / "4c/f1" / name).write_text("not for us")
    said = cas("import", "sstate", local).stdout
    assert "4 stored, 0 already stored, 0 refused" in said
    listed = {one["id"].split(":")[0] for one in cas.json("ls")}
    assert listed == {"zlib", "tool-native", "old", "linked"}
    assert cas("files", "tool-native").stdout.split()[-1] == "usr/bin/tool"
    sound(cas.store)


def test_known_sstate_object_is_not_read_again(tmp_path: Path, cas: Cas) -> None:
    path = write_sstate(tmp_path / "sstate", "zlib", TARGET)
    cas("import", "sstate", path)
    path.write_bytes(b"no archive any more")
    assert "0 stored, 1 already stored, 0 refused" in cas("import", "sstate", path).stdout


def test_refused_sstate_object_does_not_stop_the_others(tmp_path: Path, cas: Cas) -> None:
    sstate = tmp_path / "sstate"
    write_sstate(sstate, "good", TARGET)
    hostile = write_sstate(sstate, "hostile", [member("sysroot-destdir/../../etc/passwd", b"x")])
    beside = write_sstate(sstate, "beside", [*TARGET, member("other/file", b"x")])
    cut = write_sstate(sstate, "cut", TARGET)
    cut.write_bytes(cut.read_bytes()[:-20])
    secret = write_sstate(sstate, "secret", TARGET)
    secret.unlink()
    secret.symlink_to("nowhere")
    done = cas("import", "sstate", sstate, code=ExitCode.REFUSED)
    assert "1 stored, 0 already stored, 4 refused" in done.stdout
    for path in (hostile, beside, cut, secret):
        assert str(path) in done.stderr
    assert "sysroot-destdir/../../etc/passwd" in done.stderr
    assert "other/file" in done.stderr
    tidy(cas.store)
    said = imported(cas, sstate, code=ExitCode.REFUSED)
    assert [one["status"] for one in said].count("refused") == 4
    assert all(one["reason"] for one in said if one["status"] == "refused")


def test_first_sstate_object_of_an_id_wins(tmp_path: Path, cas: Cas) -> None:
    for place in ("a", "b", "c"):
        large = member("sysroot-destdir/large", os.urandom(3_000_000))
        write_sstate(tmp_path / place, "zlib", [large])
    said = imported(cas, tmp_path)
    assert [(one["status"], Path(one["path"]).parent.name) for one in said] == [
        ("stored", "a"), ("known", "b"), ("known", "c"),
    ]  # fmt: skip


def test_ambiguous_sstate_object_is_refused(tmp_path: Path, cas: Cas) -> None:
    list_in_tree = member("sysroot-destdir/sysroot-fixmepath/zlib", b"x")
    for number, members in enumerate(([*TARGET, *NATIVE], [*TARGET, list_in_tree])):
        path = write_sstate(tmp_path / str(number), "zlib", members)
        assert "outside of the tree" in cas("import", "sstate", path, code=ExitCode.REFUSED).stderr


def test_linked_directories_are_entered_once(tmp_path: Path, cas: Cas) -> None:
    write_sstate(tmp_path / "mirror/4c", "zlib", TARGET)
    (tmp_path / "sstate").mkdir()
    (tmp_path / "sstate/4c").symlink_to(tmp_path / "mirror/4c")
    (tmp_path / "mirror/4c/loop").symlink_to(tmp_path / "sstate")
    assert "1 stored, 0 already stored" in cas("import", "sstate", tmp_path / "sstate").stdout


def test_file_that_is_not_an_sstate_object_is_refused(tmp_path: Path, cas: Cas) -> None:
    names = {
        "zlib.tar.zst": "name",
        sstate_name("zlib").replace("populate_sysroot", "package"): "do_package",
        sstate_name("a b"): "'a b'",
    }
    for name, reason in names.items():
        path = tmp_path / name
        path.write_bytes(compressed(archive(TARGET)))
        said = cas("import", "sstate", path, code=ExitCode.REFUSED).stderr
        assert reason in said
    said = cas("import", "sstate", tmp_path / "absent", code=ExitCode.REFUSED).stderr
    assert "does not exist" in said
    assert "No such file" in cas(
        "import", "sstate", tmp_path / sstate_name("absent"), code=ExitCode.REFUSED
    ).stderr  # fmt: skip


def test_many_sstate_objects_are_imported_in_parallel(tmp_path: Path, cas: Cas) -> None:
    sstate, recipes = tmp_path / "sstate", 60
    for number in range(recipes):
        own = member(f"sysroot-destdir/usr/include/r{number}.h", os.urandom(100_000))
        write_sstate(sstate / f"{number:02x}", f"r{number}", [own, *TARGET[1:]])
    said = imported(cas, sstate)
    assert [one["status"] for one in said] == ["stored"] * recipes
    assert [one["path"] for one in said] == sorted(one["path"] for one in said)
    sound(cas.store)
    tidy(cas.store)


def test_progress_shows_on_a_terminal_only(tmp_path: Path, cas: Cas) -> None:
    path = write_sstate(tmp_path, "zlib", TARGET)
    assert cas("import", "sstate", path).stderr == ""
    assert "Importing" in shown_on_terminal(cas, "import", "sstate", str(path))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_interrupted_import_resumes(tmp_path: Path, cas: Cas, number: signal.Signals) -> None:
    sstate, recipes = tmp_path / "sstate", 60
    for recipe in range(recipes):
        own = member(f"sysroot-destdir/usr/include/r{recipe}.h", os.urandom(200_000))
        write_sstate(sstate, f"r{recipe:02}", [own, *TARGET])
    command = [CAS, "--store", str(cas.store), "import", "sstate", str(sstate)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        until = time.monotonic() + 60
        while len(list((cas.store / "artifacts").glob("*/*"))) < 5:
            assert time.monotonic() < until
        running.send_signal(number)
        _, said = running.communicate()
    assert b"Traceback" not in said
    assert running.returncode in (-signal.SIGKILL, 128 + number)
    done = imported(cas, sstate)
    assert {one["status"] for one in done} == {"known", "stored"}
    cas("gc")
    sound(cas.store)
    tidy(cas.store)


@pytest.mark.per_user
@pytest.mark.parametrize("end", ["", ".tar", ".tar.gz", ".tgz", ".tar.zst"])
def test_exported_tree_puts_as_the_same_tree(tmp_path: Path, cas: Cas, end: str) -> None:
    tree = make(tmp_path / "tree", {
        "usr/bin/tool*": "#!/bin/sh\n", "usr/empty/": None, "lib@": "usr/lib", "f": "f",
        "d" * 150 + "/" + "n" * 250: "long", "l@": "t" * 500,
    })  # fmt: skip
    (tree / os.fsdecode(b"odd-\xff\n")).write_text("odd")
    digest = cas.json("put", "zlib:t:11111111", tree)["tree"]
    target = tmp_path / f"exported{end}"
    said = cas.json("export", "zlib", target)
    assert (said["tree"], said["path"]) == (digest, str(target))
    assert cas.json("put", "again:t:22222222", target)["tree"] == digest
    assert "exists already" in cas("export", "zlib", target, code=ExitCode.IN_USE).stderr
    assert [name for name in os.listdir(tmp_path) if ".cas-" in name] == []


@pytest.mark.per_user
def test_exported_directory_belongs_to_the_caller(tmp_path: Path, cas: Cas) -> None:
    cas("put", "zlib:t:11111111", make(tmp_path / "tree", {"d/f": "old", "x*": "run"}))
    out = tmp_path / "out"
    cas("export", "zlib", out)
    with (out / "d/f").open("a") as file:
        file.write(" and new")
    assert os.access(out / "x", os.X_OK)
    assert os.stat(out / "d/f").st_nlink == 1
    (out / "d/g").write_text("more")
    sound(cas.store)


@pytest.mark.parametrize("recipe", ["zlib", "zlib-native"])
def test_exported_sstate_object_is_laid_out_as_bitbake_does(
    tmp_path: Path, cas: Cas, recipe: str
) -> None:
    top = "recipe-sysroot-native" if recipe.endswith("native") else "sysroot-destdir"
    members = [member("fixmepath", FIXMES.encode()), directory(top), member(f"{top}/a", b"a")]
    first = write_sstate(tmp_path / "first", recipe, members)
    cas("import", "sstate", first)
    second = tmp_path / sstate_name(recipe, hash="e" * 64)
    cas("export", recipe, second)
    listed = subprocess.run(["tar", "-tf", second], capture_output=True, text=True, check=True)
    assert sorted(listed.stdout.split()) == ["fixmepath", f"{top}/", f"{top}/a"]
    cas("import", "sstate", second)
    assert len({one["tree"] for one in cas.json("ls")}) == 1


def test_tree_unfit_for_sstate_is_not_exported_as_sstate(tmp_path: Path, cas: Cas) -> None:
    trees: list[dict[str, str | None]] = [
        {"sysroot-fixmepath": "a file"}, {"sysroot-fixmepath/": None},
        {"sysroot-fixmepath/other": "list"},
    ]  # fmt: skip
    for number, files in enumerate(trees):
        cas("put", f"zlib:t:1111111{number}", make(tmp_path / str(number), files))
        target = tmp_path / sstate_name("zlib")
        said = cas("export", f"zlib:1111111{number}", target, code=ExitCode.REFUSED).stderr
        assert "has its own" in said
    target = tmp_path / sstate_name("bar")
    said = cas("export", "zlib:11111110", target, code=ExitCode.REFUSED).stderr
    assert "another recipe" in said


def test_export_does_not_overwrite_a_file_that_appears(tmp_path: Path, cas: Cas) -> None:
    files = {f"f{number}": str(number) * 10_000 for number in range(200)}
    cas("put", "zlib:t:11111111", make(tmp_path / "tree", files))
    target = tmp_path / "out.tar.gz"
    with subprocess.Popen(
        [CAS, "--store", str(cas.store), "export", "zlib", target], stderr=subprocess.PIPE
    ) as running:
        while not list(tmp_path.glob("out.tar.gz.cas-*")) and running.poll() is None:
            pass
        target.write_text("precious")
        _, said = running.communicate()
    assert running.returncode == ExitCode.IN_USE, said
    assert target.read_text() == "precious"
    assert list(tmp_path.glob("*.cas-*")) == []


def test_damaged_content_is_not_exported(tmp_path: Path, cas: Cas) -> None:
    cas("put", "zlib:t:11111111", make(tmp_path / "tree", {"a": "good", "b": "fine"}))
    for path in objects_of(cas.store):
        os.chmod(path, 0o644)
        with open(path, "r+b") as file:
            file.write(b"BAD")
    for target in ("out", "out.tar", "out.tar.zst"):
        said = cas("export", "zlib", tmp_path / target, code=ExitCode.DAMAGED).stderr
        assert "damaged" in said
        assert not (tmp_path / target).exists()
    assert [name for name in os.listdir(tmp_path) if ".cas-" in name] == []


def test_export_of_a_lost_layer_is_damage(tmp_path: Path, cas: Cas) -> None:
    cas("put", "zlib:t:11111111", make(tmp_path / "tree", {"d/a": "good"}))
    (layer,) = (cas.store / "layers").iterdir()
    (layer / "d").rename(tmp_path / "d")
    cas("export", "zlib", tmp_path / "out", code=ExitCode.DAMAGED)
    layer.rename(tmp_path / "layer")
    cas("export", "zlib", tmp_path / "out.tar", code=ExitCode.DAMAGED)


def test_export_names_the_wrong_argument(tmp_path: Path, cas: Cas) -> None:
    cas("put", "zlib:t:11111111", make(tmp_path / "tree", {"a": "good"}))
    cas("export", "absent", tmp_path / "out", code=ExitCode.NO_SIGNATURE)
    for name, reason in {"out.tar.xz": "unsupported archive format", "o" * 256: "too long"}.items():
        assert reason in cas("export", "zlib", tmp_path / name, code=ExitCode.REFUSED).stderr
    assert "in the store" in cas(
        "export", "zlib", cas.store / "out", code=ExitCode.REFUSED
    ).stderr  # fmt: skip
    said = cas("export", "zlib", tmp_path / "absent/out", code=ExitCode.FAILURE).stderr
    assert str(tmp_path / "absent") in said
    with Store(cas.store) as store:
        assert len(store.artifacts()) == 1
    assert snapshot(tmp_path / "tree") == {b"a": snapshot(tmp_path / "tree")[b"a"]}
