"""Verification finds every damage and changes nothing; repair heals it, or takes it out of use."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cas.gc.policy import Policy
from cas.store import Store
from cas.system.files import unseal
from cas.verify.rebuild_index import rebuild_index
from tests.helpers.index import change_record, damage_record, delete_hash, rename_record
from tests.helpers.running import waiting_run
from tests.helpers.sampling import fault_numbers
from tests.helpers.support import (
    CAS,
    ROOT,
    Cas,
    killed,
    make,
    objects_of,
    shown_on_terminal,
    snapshot,
    sound,
    tidy,
)

BIG = "b" * 5000


@pytest.fixture
def trees(cas: Cas, work: Path) -> None:
    """Artifacts a and b, which share a file, and twin, which is the tree of b."""
    make(work / "a", {"usr/shared": "shared", "usr/a": "only in a", "tool*": BIG, "l@": "usr"})
    make(work / "b", {"usr/shared": "shared", "usr/b": "only in b", "e/": None})
    cas("put", "a:t:12345678", work / "a")
    cas("put", "b:t:12345678", work / "b")
    cas("put", "twin:t:12345678", work / "b")


def _layer(cas: Cas, name: str) -> Path:
    return Path(cas.json("show", name)["layer"])


def _write(path: Path, change: Callable[[bytes], bytes], *, keep_time: bool = False) -> None:
    """Change a file of the store through any of its names, like a careless user or a bad disk."""
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))
    path.chmod(before.st_mode & 0o777)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _flip(data: bytes) -> bytes:
    return data[:2] + bytes([data[2] ^ 1]) + data[3:]


def _findings(cas: Cas, *options: str, damage: bool = True) -> list[dict[str, Any]]:
    findings: list[dict[str, Any]] = cas.json("verify", *options, code=6 if damage else 0)[
        "findings"
    ]
    return findings


def _kinds(cas: Cas, *options: str, damage: bool = True) -> set[str]:
    return {finding["kind"] for finding in _findings(cas, *options, damage=damage)}


def _repaired(cas: Cas) -> list[str]:
    """Repair, assert that the store is sound, and return the repairs."""
    document = cas.json("verify", "--repair")
    assert document["findings"] == []
    assert cas("verify").stdout == "no faults found\n"
    done: list[str] = document["repaired"]
    return done


@pytest.mark.per_user
def test_sound_store_verifies_while_in_use(cas: Cas, work: Path, trees: None) -> None:
    cas("mount", "linked", "a", "b", "--strategy", "hardlink")
    cas("mount", "other", "a", "b")
    with waiting_run(cas, "--strategy=hardlink", "--sysroot=s=a") as task:
        before = snapshot(cas.store)
        for options in ([], ["--quick"], ["a", "b"], ["--quick", "a"]):
            done = cas("verify", *options)
            assert (done.stdout, done.stderr) == ("no faults found\n", "")
        assert snapshot(cas.store) == before
        task.communicate("\n")
    cas("umount", "linked")
    cas("umount", "other")
    assert "no such ID" in cas("verify", "nothing", code=3).stderr
    assert "there is no store" in cas("--store", str(work / "none"), "verify", code=1).stderr


def test_flipped_content_is_found_and_withdrawn(cas: Cas, work: Path, trees: None) -> None:
    _write(_layer(cas, "b") / "usr/shared", _flip, keep_time=True)

    assert _kinds(cas, "--quick", damage=False) == set()
    (finding,) = _findings(cas)
    assert (finding["kind"], finding["damage"]) == ("content", True)
    assert finding["ids"] == ["a:t:12345678", "b:t:12345678", "twin:t:12345678"]
    assert finding["path"].endswith("/usr/shared")
    assert "content: layers/" in cas("verify", "a", code=6).stdout
    assert len(cas.json("ls")) == 3
    done = _repaired(cas)
    assert any(text.startswith("moved the damaged objects/") for text in done)
    assert sorted(text for text in done if "out of service" in text) == [
        f"took {name}:t:12345678 out of service" for name in ("a", "b", "twin")
    ]
    assert cas.json("ls") == []
    (kept,) = (cas.store / "quarantine").iterdir()
    assert kept.read_bytes() == _flip(b"shared")
    cas("put", "b:t:12345678", work / "b")
    assert snapshot(_layer(cas, "b")) == snapshot(work / "b")
    sound(cas.store)


def test_findings_do_not_depend_on_processors(cas: Cas, work: Path, trees: None) -> None:
    _write(_layer(cas, "a") / "usr/a", _flip)
    _write(_layer(cas, "b") / "usr/shared", _flip, keep_time=True)
    (_layer(cas, "b") / "usr/b").unlink()
    (_layer(cas, "a") / "usr").chmod(0o700)
    objects = objects_of(cas.store)
    os.link(objects[0], work / "another")
    (stored,) = (p for p in objects if _holds(p, BIG.encode()))
    os.unlink(stored)

    findings = _findings(cas)
    command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), CAS, "--store", str(cas.store)]
    done = subprocess.run([*command, "verify", "--json"], capture_output=True, text=True)
    assert json.loads(done.stdout)["findings"] == findings
    assert {finding["kind"] for finding in findings} == {
        "written", "content", "entry", "mode", "links", "object"
    }  # fmt: skip


def test_write_through_a_link_is_found_quickly(cas: Cas, work: Path, trees: None) -> None:
    _write(_layer(cas, "a") / "usr/a", _flip)

    (finding,) = _findings(cas, "--quick")
    assert (finding["kind"], finding["ids"]) == ("written", ["a:t:12345678"])
    assert _kinds(cas) == {"written", "content"}
    _repaired(cas)
    assert {artifact["recipe"] for artifact in cas.json("ls")} == {"b", "twin"}
    sound(cas.store)


@pytest.mark.parametrize("keep_time", [False, True])
def test_put_replaces_an_object_written_through_a_link(
    cas: Cas, work: Path, trees: None, keep_time: bool
) -> None:
    """Not even if the file looks old, as after `cp -p` or `rsync --inplace --times`."""
    cas("mount", "linked", "a", "--strategy", "hardlink")
    path = work / "linked/usr/shared"
    _write(path, _flip)
    if keep_time:
        os.utime(path, (10**9, 10**9))

    assert _kinds(cas, "--quick") == {"written"}
    made = make(work / "c", {"usr/c": "shared"})
    assert "6 bytes new" in cas("put", "c:t:12345678", made).stdout
    assert snapshot(_layer(cas, "c")) == snapshot(made)
    (stored,) = (p for p in objects_of(cas.store) if _holds(p, b"shared"))
    os.unlink(stored)
    assert "is damaged" in cas("put", "a:t:12345678", work / "a", code=6).stderr
    _write(path, lambda data: b"shared")
    cas("umount", "linked")
    assert _repaired(cas)


def test_touched_object_is_reported_and_gets_its_time_back(cas: Cas, trees: None) -> None:
    path = _layer(cas, "b") / "usr/b"
    before = path.stat().st_mtime_ns
    path.touch()

    assert _kinds(cas, "--quick") == {"written"}
    assert _kinds(cas) == {"written"}
    _repaired(cas)
    assert abs(path.stat().st_mtime_ns - before) < 10**9


def test_every_flipped_bit_of_a_small_file_is_refused(cas: Cas, work: Path, trees: None) -> None:
    cas("pin", "a", "--reason", "release")
    cas("mount", "mounted", "a", "b", "--strategy", "copy")
    with Store(cas.store) as store, store.compose(["a", "b"]):
        for place in ("mounts", "pins", "known", "leases", "boot"):
            path = cas.store / place
            path = path if path.is_file() else next(path.iterdir())
            good = path.read_bytes()
            unseal(good)
            for bit in range(8 * len(good)):
                bad = bytearray(good)
                bad[bit // 8] ^= 1 << bit % 8
                with pytest.raises(ValueError, match="checksum"):
                    unseal(bytes(bad))
    for place in ("mounts", "pins"):
        path = next((cas.store / place).iterdir())
        good = path.read_bytes()
        path.write_bytes(good[:-20] + _flip(good[-20:]))
        assert _kinds(cas) == {"state"}
        path.write_bytes(good)
    path = next((cas.store / "mounts").iterdir())
    path.write_bytes(path.read_bytes().replace(b"a:t:", b"b:t:"))
    assert "is corrupt" in cas("gc", "--max-age=0s", "--grace=0s", code=6).stderr
    assert len(cas.json("ls")) == 3


@pytest.mark.parametrize("content", [None, b"", b"\0" * 8192, b"garbage" * 1000])
def test_repair_rebuilds_a_lost_index_and_verify_does_not(
    cas: Cas, work: Path, trees: None, content: bytes | None
) -> None:
    cas("pin", "a")
    index = cas.store / "index/data.mdb"
    index.unlink()
    if content is not None:
        index.write_bytes(content)
    before = snapshot(cas.store)

    assert "cas rebuild-index" in cas("verify", code=6).stderr
    assert _kinds(cas, "--quick") == {"index"}
    assert snapshot(cas.store) == before
    assert "rebuilt the index of 3 artifacts" in _repaired(cas)
    assert {artifact["recipe"] for artifact in cas.json("ls")} == {"a", "b", "twin"}
    assert len(cas.json("pins")) == 1
    assert snapshot(_layer(cas, "a")) == snapshot(work / "a")


@pytest.mark.per_user
@pytest.mark.parametrize("name", ["lock", "tmp", "leases", "known", "mounts", "pins", "empty"])
def test_lost_directory_is_reported_and_init_restores_it(
    cas: Cas, work: Path, trees: None, name: str
) -> None:
    path = cas.store / name
    path.unlink() if path.is_file() else shutil.rmtree(path)

    for command in (["ls"], ["put", "c:t:12345678", "a"], ["gc"], ["verify"]):
        done = cas(*command, code=6)
        assert done.stderr.startswith(f"cas: {path} is missing\nhint: `cas init`")
    cas("init")
    assert cas("verify").stdout == "no faults found\n"
    cas("run", "--sysroot", "s=a", "--", "cat", "s/usr/a")


def test_content_with_an_undamaged_copy_is_restored(cas: Cas, work: Path, trees: None) -> None:
    path = _layer(cas, "b") / "usr/shared"
    layer, time = path.parent, path.stat()
    copy = work / "copy"
    shutil.copy2(path, copy)
    layer.chmod(0o755)
    path.unlink()
    copy.rename(path)  # as if the file had reached the maximum number of links
    assert _kinds(cas, damage=False) == set()
    (shared,) = (Path(os.fsdecode(p)) for p in objects_of(cas.store) if _holds(p, b"shared"))
    _write(shared, _flip, keep_time=True)
    assert time.st_mtime_ns == path.stat().st_mtime_ns

    assert _kinds(cas) == {"content"}
    assert any(text.startswith("restored objects/") for text in _repaired(cas))
    assert len(cas.json("ls")) == 3
    assert snapshot(_layer(cas, "a")) == snapshot(work / "a")


def _holds(path: bytes, content: bytes) -> bool:
    return os.path.isfile(path) and Path(os.fsdecode(path)).read_bytes() == content


def _truncate(cas: Cas) -> None:
    _write(_layer(cas, "a") / "tool", lambda data: data[:100], keep_time=True)


def _chmod(cas: Cas) -> None:
    (_layer(cas, "a") / "tool").chmod(0o755)
    (_layer(cas, "b") / "e").chmod(0o700)


def _lose_bit(cas: Cas) -> None:
    (_layer(cas, "a") / "tool").chmod(0o444)


def _shut(cas: Cas) -> None:
    (_layer(cas, "a") / "tool").chmod(0)


def _touch(cas: Cas) -> None:
    os.utime(_layer(cas, "b") / "usr/b")


def _delete(cas: Cas) -> None:
    (_layer(cas, "b") / "usr/b").unlink()


def _add(cas: Cas) -> None:
    make(_layer(cas, "b") / "usr", {"more/file": "x", "l@": "x"})


def _retarget(cas: Cas) -> None:
    (_layer(cas, "a") / "l").unlink()
    (_layer(cas, "a") / "l").symlink_to("elsewhere")


def _exchange(cas: Cas) -> None:
    (_layer(cas, "b") / "e").rmdir()
    (_layer(cas, "b") / "e").write_text("")


def _swap(cas: Cas) -> None:
    """One file takes the place of another of equal size."""
    usr = _layer(cas, "b") / "usr"
    (usr / "b").unlink()
    os.link(_layer(cas, "a") / "usr/a", usr / "b")


def _no_layer(cas: Cas) -> None:
    shutil.rmtree(_layer(cas, "b"))


def _no_manifest(cas: Cas) -> None:
    (cas.store / "manifests" / _layer(cas, "b").name).unlink()


def _flip_manifest(cas: Cas) -> None:
    _write(cas.store / "manifests" / _layer(cas, "b").name, _flip)


def _no_object(cas: Cas) -> None:
    for path in objects_of(cas.store):
        os.unlink(path)


def _no_link(cas: Cas) -> None:
    (cas.store / "artifacts/b/t:12345678").unlink()


def _wrong_link(cas: Cas) -> None:
    (cas.store / "artifacts/b/t:12345678").unlink()
    (cas.store / "artifacts/b/t:12345678").symlink_to("../../layers/" + _layer(cas, "a").name)


def _file_as_link(cas: Cas) -> None:
    (cas.store / "artifacts/b/t:12345678").unlink()
    (cas.store / "artifacts/b/t:12345678").write_text("")


def _stray_link(cas: Cas) -> None:
    make(cas.store / "artifacts/gone", {"t:12345678@": "../../layers/x"})


def _record(cas: Cas) -> None:
    with Store(cas.store) as store:
        damage_record(store, b"b:t:12345678", _flip)


def _counts(cas: Cas) -> None:
    with Store(cas.store) as store:
        change_record(store, store.resolve("b:t:12345678"), size=1)


def _object_of(cas: Cas, content: bytes) -> Path:
    return Path(os.fsdecode(next(p for p in objects_of(cas.store) if _holds(p, content))))


def _layer_as_file(cas: Cas) -> None:
    layer = _layer(cas, "b")
    _no_layer(cas)
    layer.write_text("")


def _layer_as_link(cas: Cas) -> None:
    layer = _layer(cas, "b")
    _no_layer(cas)
    layer.symlink_to("/")


def _manifest_as_directory(cas: Cas) -> None:
    _no_manifest(cas)
    make(cas.store / "manifests" / _layer(cas, "b").name, {"x": "x"})


def _fifo_as_object(cas: Cas) -> None:
    path = _object_of(cas, b"only in a")
    path.unlink()
    os.mkfifo(path)


def _fifo_of_two_names(cas: Cas) -> None:
    _fifo_as_object(cas)
    path = _object_of(cas, b"only in b")
    path.unlink()
    (fifo,) = (p for p in (cas.store / "objects").glob("*/*") if p.is_fifo())
    os.link(fifo, path)


def _name_of_another(cas: Cas) -> None:
    """Another file has the name of a content; only a layer still links to the content itself."""
    path = _object_of(cas, b"only in a")
    path.unlink()
    os.link(_object_of(cas, b"shared"), path)


def _moved_and_flipped(cas: Cas) -> None:
    path = _object_of(cas, b"only in a")
    path.rename(path.parent.parent / f"{path.parent.name}_{path.name}")
    _write(_layer(cas, "a") / "usr/a", _flip, keep_time=True)


def _key(cas: Cas) -> None:
    with Store(cas.store) as store:
        rename_record(store, b"b:t:12345678", b"c:t:12345678")


def _not_found_by_hash(cas: Cas) -> None:
    with Store(cas.store) as store:
        delete_hash(store, b"12345678\0b:t:12345678")


@pytest.mark.per_user
@pytest.mark.parametrize(
    ("harm", "kinds", "quick", "left"),
    [
        (_truncate, {"content"}, True, {"b", "twin"}),
        (_chmod, {"mode"}, True, {"a", "b", "twin"}),
        (_lose_bit, {"mode"}, True, {"a", "b", "twin"}),
        (_shut, {"mode"} if ROOT else {"mode", "content"}, False, {"a", "b", "twin"}),
        (_touch, {"written"}, True, {"a", "b", "twin"}),
        (_delete, {"entry"}, True, {"a", "b", "twin"}),
        (_add, {"entry"}, True, {"a", "b", "twin"}),
        (_retarget, {"entry"}, True, {"a", "b", "twin"}),
        (_exchange, {"entry"}, True, {"a", "b", "twin"}),
        (_swap, {"content", "written"}, False, {"a", "b", "twin"}),
        (_no_layer, {"layer"}, True, {"a", "b", "twin"}),
        (_no_manifest, {"manifest"}, True, {"a", "b", "twin"}),
        (_flip_manifest, {"manifest"}, True, {"a", "b", "twin"}),
        (_layer_as_file, {"layer"}, True, {"a", "b", "twin"}),
        (_layer_as_link, {"layer"}, True, {"a", "b", "twin"}),
        (_manifest_as_directory, {"manifest"}, True, {"a", "b", "twin"}),
        (_fifo_as_object, {"foreign", "object"}, True, {"a", "b", "twin"}),
        (_fifo_of_two_names, {"foreign", "object"}, True, {"a", "b", "twin"}),
        (_name_of_another, {"content", "links"}, False, {"a", "b", "twin"}),
        (_key, {"index", "link"}, True, {"a", "b", "twin"}),
        (_not_found_by_hash, {"index"}, True, {"a", "b", "twin"}),
        (_record, {"index"}, True, {"a", "b", "twin"}),
        (_counts, {"record"}, True, {"a", "b", "twin"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_found_and_repaired(
    cas: Cas,
    work: Path,
    trees: None,
    harm: Callable[[Cas], None],
    kinds: set[str],
    quick: bool,
    left: set[str],
) -> None:
    harm(cas)

    assert _kinds(cas) == kinds
    if quick:
        assert _kinds(cas, "--quick") == kinds
    assert _repaired(cas) != []
    assert {artifact["recipe"] for artifact in cas.json("ls")} == left
    for name in left:
        assert snapshot(_layer(cas, name)) == snapshot(work / ("a" if name == "a" else "b"))
    cas("gc")
    tidy(cas.store)


@pytest.mark.per_user
@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (_no_object, "object"),
        (_no_link, "link"),
        (_wrong_link, "link"),
        (_file_as_link, "link"),
        (_stray_link, "link"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_harmless_disorder_is_repaired(
    cas: Cas, trees: None, harm: Callable[[Cas], None], kind: str
) -> None:
    harm(cas)

    assert _kinds(cas, damage=False) == {kind}
    assert _kinds(cas, "--quick", damage=False) == {kind}
    _repaired(cas)
    assert len(cas.json("ls")) == 3
    cas("gc")
    tidy(cas.store)


def test_moved_object_is_reported_and_layers_are_read(cas: Cas, trees: None) -> None:
    _moved_and_flipped(cas)

    assert _kinds(cas) == {"stray", "object", "content"}
    assert cas.json("verify", "--repair", code=0)["findings"][0]["kind"] == "stray"
    assert {artifact["recipe"] for artifact in cas.json("ls")} == {"b", "twin"}


def test_missing_object_is_reported_with_its_artifacts(cas: Cas, trees: None) -> None:
    _object_of(cas, b"shared").unlink()

    (finding,) = _findings(cas, damage=False)
    assert finding["ids"] == ["a:t:12345678", "b:t:12345678", "twin:t:12345678"]


def test_foreign_links_and_names_are_reported_and_kept(cas: Cas, work: Path, trees: None) -> None:
    os.link(_layer(cas, "a") / "usr/a", work / "mine")
    make(cas.store, {"mine": "x", "objects/00/mine": "x", "layers/mine/": None})

    assert _kinds(cas, damage=False) == {"links", "stray"}
    text = cas("verify", "--repair").stdout
    assert "has 1 more links than the store made (a:t:12345678)" in text
    assert "stray: mine does not belong to a store" in text
    assert text.endswith("0 damaged, 4 other faults\n")
    assert (work / "mine").read_text() == "only in a"


def test_damaged_pin_and_mount_record_are_reported_with_paths(cas: Cas, trees: None) -> None:
    cas("pin", "a")
    (cas.store / "pins/a:t:12345678").write_text("{")
    (cas.store / "mounts/0").write_text("{")

    text = cas("verify", code=6).stdout
    assert f"{cas.store}/pins/a:t:12345678" in text
    assert f"{cas.store}/mounts/0" in text


@pytest.mark.per_user
def test_damaged_layer_in_use_is_kept_until_free(cas: Cas, work: Path, trees: None) -> None:
    cas("mount", "target", "b")
    _delete(cas)

    document = cas.json("verify", "--repair", code=6)
    assert "is in use: repair it when that has ended" in document["repaired"][0]
    assert {finding["kind"] for finding in document["findings"]} == {"entry"}
    cas("umount", "target")
    _repaired(cas)
    assert len(cas.json("ls")) == 3


def test_verification_shows_its_progress_on_a_terminal_only(cas: Cas, trees: None) -> None:
    shown = shown_on_terminal(cas, "verify")

    assert "Reading contents" in shown
    assert "100%" in shown


def test_repair_needs_a_full_verification(cas: Cas, trees: None) -> None:
    assert "without --quick" in cas("verify", "--quick", "--repair", code=2).stderr


def _lose(index: Path) -> None:
    index.unlink()


def _empty(index: Path) -> None:
    index.write_bytes(b"")


def _cut(index: Path) -> None:
    with index.open("r+b") as file:
        file.truncate(index.stat().st_size // 2)


def _overwrite(index: Path) -> None:
    with index.open("r+b") as file:
        file.write(b"\xff" * index.stat().st_size)


def _lose_directory(index: Path) -> None:
    index.unlink()
    index.parent.rmdir()


@pytest.mark.per_user
@pytest.mark.parametrize("harm", [_lose, _empty, _cut, _overwrite, _lose_directory])
def test_lost_index_is_rebuilt(
    cas: Cas, work: Path, trees: None, harm: Callable[[Path], None]
) -> None:
    cas("pin", "a", "--reason", "why")
    before = {row["id"]: {**row, "stored_ns": 0} for row in cas.json("ls")}
    harm(cas.store / "index/data.mdb")

    others = (["ls"], ["has", "a:t:12345678"], ["put", "c:t:12345678", "a"])
    # A truncated index still has some pages: a command that needs only those succeeds.
    for command in (["verify"], *(others if harm is not _cut else ())):
        done = cas(*command, code=6)
        assert "cas rebuild-index" in done.stderr, done.stderr
    assert cas("rebuild-index").stdout == "3 artifacts restored, 0 lost\n"

    after = {row["id"]: {**row, "stored_ns": 0} for row in cas.json("ls")}
    assert after == before
    assert [pin["reason"] for pin in cas.json("pins")] == ["why"]
    assert cas("verify").stdout == "no faults found\n"
    cas("mount", "target", "a", "b")
    assert (work / "target/usr/b").read_text() == "only in b"
    cas("umount", "target")
    tidy(cas.store)


def test_rebuilt_index_omits_damaged_artifacts(cas: Cas, work: Path, trees: None) -> None:
    (cas.store / "manifests" / _layer(cas, "a").name).unlink()
    _write(_layer(cas, "b") / "usr/b", _flip, keep_time=True)
    make(cas.store / "artifacts/odd", {"t:12345678@": "/etc"})

    document = cas.json("rebuild-index")

    assert document["artifacts"] == ["b:t:12345678", "twin:t:12345678"]
    assert [text.partition(": ")[0] for text in document["lost"]] == [
        "a:t:12345678",
        "odd:t:12345678",
    ]
    # The contents of a rebuilt record are read before its first use.
    assert "no such ID" in cas("mount", "target", "b", code=3).stderr


def test_flipped_index_bits_cause_no_crash_and_no_wrong_answer(
    cas: Cas, work: Path, trees: None
) -> None:
    path = cas.store / "index/data.mdb"
    good = path.read_bytes()
    with Store(cas.store) as store:
        whole = {artifact.signature: artifact.tree for artifact in store.artifacts()}
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    used = [number for number, byte in enumerate(good) if byte]
    refusals = 0
    for _ in range(25):
        bad = bytearray(good)
        for _ in range(chance.choice((1, 1, 8))):
            bad[chance.choice(used)] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        done = subprocess.run(
            [CAS, "--store", str(cas.store), "verify"], capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 6), done
        assert "Traceback" not in done.stderr
        refusals += done.returncode == 6
        rebuild_index(cas.store)
        with Store(cas.store) as store:
            assert {artifact.signature: artifact.tree for artifact in store.artifacts()} == whole
    assert refusals > 0
    sound(cas.store)


def test_flipped_index_page_headers_end_with_a_sentence(cas: Cas, work: Path, trees: None) -> None:
    path = cas.store / "index/data.mdb"
    for number in range(4):
        cas("put", f"more{number}:t:12345678", "a")  # so that LMDB has a list of free pages
    good = path.read_bytes()
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    crashed = []
    for start in range(0, len(good), 4096):
        if not any(good[start : start + 4096]):
            continue
        bad = bytearray(good)
        bad[start + chance.randrange(10, 16)] ^= 1 << chance.randrange(8)
        for command in (["ls"], ["put", "new:t:12345678", "b"]):
            path.write_bytes(bad)
            done = subprocess.run(
                [CAS, "--store", cas.store, *command],
                cwd=work,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode in (0, 1, 6), done
            assert "Traceback" not in done.stderr
            assert (done.returncode == 0) is ("cas: " not in done.stderr), done
            if "SIG" in done.stderr:
                crashed.append(bytes(bad))
    for damaged in crashed:
        path.write_bytes(damaged)
        assert "rebuild-index" in cas("verify", code=6).stderr
    cas("rebuild-index")
    cas("gc")
    sound(cas.store)


@pytest.mark.parametrize("crash", ["ctypes.string_at(0)", "ctypes.CDLL(None).abort()"])
def test_crash_in_the_index_has_the_exit_code_of_damage(crash: str) -> None:
    code = f"""
import ctypes
from cli.output.crashes import crashes_reported
with crashes_reported("/the/store"):
    {crash}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "index of /the/store" in done.stderr
    assert "`cas verify`" in done.stderr


@pytest.mark.parametrize(
    "call",
    [
        "link,linkat",
        "rename,renameat,renameat2",
        "unlink,unlinkat,rmdir",
        "mkdir,mkdirat",
        "pwrite64,pwritev,writev",
        "fdatasync,fsync,msync",
    ],
)
def test_repair_and_rebuild_killed_at_any_step_lose_nothing(
    cas: Cas, work: Path, trees: None, call: str
) -> None:
    hits = 0
    for command in (["verify", "--repair"], ["rebuild-index"]):
        for number in fault_numbers():
            with Store(cas.store) as store:
                a, b = (Path(os.fsdecode(store.layer_path(store.resolve(n)))) for n in "ab")
            _write(a / "usr/a", _flip, keep_time=True)
            (b / "usr/b").unlink()
            if not killed(cas, *command, call=call, number=number):
                break
            hits += 1
            with Store(cas.store) as store:
                list(store.repair(list(store.verify())))
                recipes = {artifact.signature.recipe for artifact in store.artifacts()}
                assert recipes == {"b", "twin"}
                assert snapshot(b) == snapshot(work / "b")
                store.gc(store.plan_gc(Policy()))
            tidy(cas.store)
            with Store(cas.store) as store:
                store.put("a:t:12345678", work / "a")
        cas("verify", "--repair")
        cas("put", "a:t:12345678", work / "a")
    assert hits > 0


@pytest.mark.per_user
def test_foreign_entries_are_found_and_moved_away(cas: Cas, trees: None) -> None:
    make(cas.store, {"empty/1/evil.h": "evil", "empty/2/dir/": None, "artifacts/c": "no recipe"})

    assert _kinds(cas) == {"foreign"}
    assert len(_findings(cas)) == 3
    _repaired(cas)
    assert cas("run", "--sysroot", "s=a", "--", "ls", "s").stdout == "l\ntool\nusr\n"
    assert len(os.listdir(cas.store / "quarantine")) == 3


@pytest.mark.skipif(not ROOT, reason="only root can mount a disk")
def test_put_rereads_objects_if_times_are_coarse(cas: Cas, work: Path) -> None:
    with (work / "image").open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-I", "128", work / "image"], check=True)
    (work / "disk").mkdir()
    subprocess.run(["mount", "-o", "loop", work / "image", work / "disk"], check=True)
    there = replace(cas, store=work / "disk/store")
    tree = make(work / "tree", {"usr/x": "right"})
    there("put", "a:t:12345678", tree)
    assert there("verify").stdout == "no faults found\n"

    _write(_layer(there, "a") / "usr/x", _flip)
    there("put", "b:t:12345678", make(work / "other", {"usr/y": "right"}))

    assert (_layer(there, "b") / "usr/y").read_text() == "right"
    subprocess.run(["umount", work / "disk"], check=True)
