"""The contract for scripts: output, standard error and exit codes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cas.model.signature import AmbiguousSignature, BadSignature, NoSuchSignature, Signature
from cas.store import Store
from tests.helpers.support import CAS, Cas, make

ZLIB = "zlib:core2-64:do_populate_sysroot:9f2c41d0"
GLIBC = "glibc:do_populate_sysroot:aa00bb11"
FILES = {"usr/include/zlib.h": "z", "usr/bin/tool*": "#!/bin/sh\n", "usr/l@": "bin", "empty/": None}


@pytest.fixture
def tree(work: Path) -> Path:
    return make(work / "tree", FILES)


def test_put_prints_what_it_stored(cas: Cas, tree: Path) -> None:
    first = cas.json("put", ZLIB, tree)
    again = cas.json("put", ZLIB, tree)
    other = cas.json("put", GLIBC, tree)

    assert first["status"] == "stored"
    assert (first["id"], first["files"], first["bytes"], first["new_bytes"]) == (ZLIB, 2, 11, 11)
    assert again == first | {"status": "unchanged", "new_bytes": 0}
    assert other == first | {"id": GLIBC, "new_bytes": 0}


def test_put_of_another_tree_is_a_conflict_that_names_the_paths(cas: Cas, tree: Path) -> None:
    cas("put", ZLIB, tree)
    (tree / "usr/include/zlib.h").write_text("other")
    (tree / "new").touch()

    refused = cas("put", ZLIB, tree, code=4)

    assert "usr/include/zlib.h (content)" in refused.stderr
    assert "new (added)" in refused.stderr
    assert refused.stdout == ""
    assert cas.json("put", "--replace", ZLIB, tree)["status"] == "replaced"
    assert len(os.listdir(cas.store / "layers")) == 1  # the replaced tree's space is back
    assert cas.json("put", ZLIB, tree)["status"] == "unchanged"


def test_has_prints_missing_ids(cas: Cas, tree: Path) -> None:
    assert cas("has", ZLIB, code=3).stdout == f"{ZLIB}\n"
    assert not cas.store.exists()
    cas("put", ZLIB, tree)

    assert cas("has", ZLIB).stdout == ""
    assert cas("has", ZLIB, GLIBC, code=3).stdout == f"{GLIBC}\n"
    assert cas.json("has", ZLIB, GLIBC, code=3) == {"missing": [GLIBC]}
    assert "not an ID" in cas("has", "zlib", code=2).stderr


def test_ls_show_and_files_agree_in_text_and_json(cas: Cas, tree: Path) -> None:
    assert cas.json("ls") == []
    cas("put", ZLIB, tree)
    cas("put", GLIBC, tree)

    listed = cas.json("ls", "zl*")
    shown = cas.json("show", "zlib")
    files = cas.json("files", "9f2c")

    assert [artifact["id"] for artifact in listed] == [ZLIB]
    assert {key: shown[key] for key in listed[0]} == listed[0]
    assert Path(shown["layer"], "usr/include/zlib.h").read_text() == "z"
    assert (shown["files"], shown["directories"], shown["symlinks"]) == (2, 4, 1)
    by_path = {entry["path"]: entry for entry in files}
    assert by_path["empty"] == {"path": "empty", "kind": "directory"}
    assert by_path["usr/l"] == {"path": "usr/l", "kind": "symlink", "target": "bin"}
    assert by_path["usr/bin/tool"]["executable"] is True
    assert (by_path["usr/include/zlib.h"]["size"], len(by_path)) == (1, 7)
    assert len(cas("files", "9f2c").stdout.splitlines()) == 7
    assert ZLIB in cas("ls").stdout
    assert GLIBC not in cas("ls", "zlib").stdout
    assert "directories: 4" in cas("show", "zlib").stdout


def test_rm_frees_unshared_contents(cas: Cas, tree: Path, work: Path) -> None:
    cas("put", ZLIB, tree)
    cas("put", GLIBC, make(work / "other", {"a": "z", "b": "own"}))

    cas("rm", "zlib")

    assert [artifact["id"] for artifact in cas.json("ls")] == [GLIBC]
    assert cas("rm", "zlib", code=3).stdout == ""
    objects = [path for path in (cas.store / "objects").rglob("*") if path.is_file()]
    assert sorted(path.read_text() for path in objects) == ["own", "z"]
    assert cas.json("rm", "glibc")["removed"] == [GLIBC]
    assert not [path for path in cas.store.rglob("*") if path.is_file() and "objects" in path.parts]
    assert os.listdir(cas.store / "layers") == os.listdir(cas.store / "manifests") == []
    assert os.listdir(cas.store / "artifacts") == os.listdir(cas.store / "tmp") == []


def test_store_option_wins_over_environment(work: Path, tree: Path) -> None:
    def put(*options: str, **environment: str) -> None:
        clean = {"PATH": os.environ["PATH"], **environment}
        command = [CAS, *options[:2], "put", ZLIB, str(tree), *options[2:]]
        subprocess.run(command, env=clean, check=True, capture_output=True, cwd=work)

    put("--store", "a", CAS_STORE="b", XDG_CACHE_HOME=str(work / "c"), HOME=str(work / "d"))
    assert (work / "a/format").exists()
    put(CAS_STORE="b", XDG_CACHE_HOME=str(work / "c"), HOME=str(work / "d"))
    assert (work / "b/format").exists()
    put(XDG_CACHE_HOME=str(work / "c"), HOME=str(work / "d"))
    assert (work / "c/sysroot-cas/format").exists()
    put(HOME=str(work / "d"))
    assert (work / "d/.cache/sysroot-cas/format").exists()


def test_store_of_newer_format_is_not_touched(cas: Cas, tree: Path) -> None:
    cas("put", ZLIB, tree)
    (cas.store / "format").write_text("sysroot-cas store 2\n")

    for command in (["put", ZLIB, tree], ["ls"], ["mount", "target", "zlib"]):
        assert "format 2" in cas(*command, code=6).stderr
    assert "format 2" in cas("doctor", code=6).stdout


def test_foreign_directory_does_not_become_a_store(cas: Cas, tree: Path) -> None:
    cas.store.mkdir()
    (cas.store / "thesis.tex").touch()

    assert "thesis.tex" in cas("put", ZLIB, tree, code=8).stderr
    assert os.listdir(cas.store) == ["thesis.tex"]


def test_file_or_missing_directory_is_not_a_store(cas: Cas, work: Path) -> None:
    (work / "file").touch()

    assert "not a directory" in cas("--store", work / "file", "ls", code=8).stderr
    assert f"there is no store at {cas.store}" in cas("ls").stderr


def test_closed_standard_output_is_an_error_not_a_crash(cas: Cas, tree: Path) -> None:
    cas("put", ZLIB, tree)

    done = subprocess.run(
        ["sh", "-c", 'exec "$0" --store "$1" ls >&-', CAS, cas.store],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stderr == ""


def test_out_of_memory_is_a_sentence(cas: Cas, tree: Path, work: Path) -> None:
    cas("put", ZLIB, tree)
    with open(work / "huge", "wb") as file:
        file.truncate(1 << 32)
    limited = Cas(cas.store, cas.directory, ("prlimit", f"--data={256 << 20}"))

    for command, code in (
        ("mount target --from huge", 1),
        ("run --dependencies huge -- true", 125),
    ):
        said = limited(*command.split(), code=code).stderr
        assert "cas: Cannot allocate memory\nhint: out of memory" in said


def test_quiet_commands_print_only_data_and_errors(cas: Cas, tree: Path, work: Path) -> None:
    cas("put", ZLIB, tree)
    cas("put", "fork:do_x:12345678", make(work / "fork", {"usr/include/zlib.h": "another"}))
    plan = ("plan", "target", "zlib", "fork")
    assert "conflict" in cas(*plan).stderr
    assert "note" in cas("ls", "--store", work / "absent").stderr
    for before, after in ((("--quiet",), ()), ((), ("-q",))):
        assert cas(*before, *plan, *after).stdout == cas(*plan).stdout
        assert cas(*before, *plan, *after).stderr == ""
        assert cas(*before, "ls", "--store", work / "absent", *after).stderr == ""
        assert "did you mean zlib?" in cas(*before, "show", "zlb", *after, code=3).stderr


def test_errors_are_sentences_on_standard_error_alone(cas: Cas, tree: Path) -> None:
    cas("put", ZLIB, tree)
    for arguments, code in (
        (["show", "nothing"], 3),
        (["files", "nothing"], 3),
        (["rm", "nothing"], 3),
        (["mount", "target", "nothing", "zlib", "nowhere"], 3),
        (["put", "zlib", tree], 2),
        (["put", ZLIB], 2),
        (["mount", "target"], 2),
        (["nonsense"], 2),
        (["umount", "target"], 1),
        (["run", "--sysroot", "x=nothing", "--", "true"], 125),
        (["run", "--nonsense", "--", "true"], 125),
        (["run"], 125),
    ):
        done = cas(*arguments, code=code)
        assert done.stdout == ""
        assert done.stderr.strip()
    missing = cas("mount", "target", "nothing", "zlib", "nowhere", code=3).stderr
    assert "nothing" in missing
    assert "nowhere" in missing


@pytest.mark.parametrize(
    "text",
    ["zlib", "a:b", "a:b:c:d:12345678", "a:b:short", "a b:c:12345678", "..:t:12345678",
     "a:.:12345678", "a::12345678", "a:b:1234567-", "a:b:" + "0" * 129, "é:t:12345678",
     "a" * 250 + ":t:12345678", "a:b:12345678\n"],
)  # fmt: skip
def test_malformed_id_is_refused(text: str) -> None:
    with pytest.raises(BadSignature):
        Signature.parse(text)


def test_abbreviation_matches_whole_fields_and_hash_prefixes(store: Store, work: Path) -> None:
    tree = make(work / "tree", {})
    for text in (
        ZLIB,
        GLIBC,
        "gcc:do_populate_sysroot:cafe0001",
        "gcc:do_package:cafe0002",
        "cafe:do_populate_sysroot:00000000",
        "x:t:12345678",
        "x:t:123456789",
    ):
        store.put(text, tree)

    def named(text: str) -> str:
        return str(store.resolve(text).signature)

    for text in ("zlib", "zlib:do_populate_sysroot", "zlib:9f2c", "9f2c", "zlib:core2-64", ZLIB):
        assert named(text) == ZLIB
    assert named("gcc:do_package") == "gcc:do_package:cafe0002"
    assert named("gcc:cafe0001") == "gcc:do_populate_sysroot:cafe0001"
    assert named("cafe") == "cafe:do_populate_sysroot:00000000"  # a recipe before a hash
    assert named("x:t:12345678") == "x:t:12345678"  # whole, though another one begins with it
    with pytest.raises(AmbiguousSignature) as ambiguous:
        store.resolve("gcc")
    assert [s.task for s in ambiguous.value.candidates] == ["do_package", "do_populate_sysroot"]
    for text in ("", ":", "zli", "9f2", "do_populate_sysroot", "zlib:aa00", "core2-64:zlib", "\0"):
        with pytest.raises(NoSuchSignature):
            store.resolve(text)


def test_ambiguous_abbreviation_lists_the_candidates(cas: Cas, tree: Path) -> None:
    cas("put", ZLIB, tree)
    cas("put", ZLIB + "ff", tree)

    assert f"  {ZLIB}\n  {ZLIB}ff\n" in cas("show", "zlib", code=3).stderr


def test_json_is_one_document_for_odd_names(cas: Cas, work: Path) -> None:
    tree = os.fsencode(work / "odd")
    os.mkdir(tree)
    for name in (b"new\nline", b"\xff\xfe", b'quote"', b" space ", b"back\\slash", "é".encode()):
        with open(os.path.join(tree, name), "wb"):
            pass
    cas("put", ZLIB, tree)

    names = {os.fsencode(entry["path"]) for entry in cas.json("files", "zlib")}
    lines = cas("files", "zlib").stdout.splitlines()

    assert names == set(os.listdir(tree))
    assert len(lines) == 6
    assert {line.split(maxsplit=4)[4] for line in lines} == {
        r'"new\nline"', r'"\377\376"', r'"quote\""', '" space "', r'"back\\slash"', "é",
    }  # fmt: skip
