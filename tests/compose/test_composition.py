"""Compositions: order, conflicts, the origin of a file, and more trees than one mount takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import mounter
from cas.compose.composition import Composition
from cas.errors import StoreDamaged
from cas.model.conflicts import ConflictPolicy, ConflictRefused, find_overlaps
from cas.model.manifest import Manifest
from cas.store import Store
from cas.system.files import seal, unseal
from mounter import Strategy
from tests.helpers.support import CAS, Cas, make, objects_of, seen_in_run, snapshot


@pytest.fixture
def trees(cas: Cas, work: Path) -> None:
    """`a`, `b` and `c` bring `x` differently, and agree in `same`; `d` agrees with `a`."""
    for name in "abc":
        files = {"usr/x": name, "usr/same": "same", f"usr/{name}": name}
        cas("put", f"{name}:t:12345678", make(work / name, files))
    cas("put", "d:t:12345678", make(work / "d", {"usr/x": "a", "usr/d": "d"}))


def _order(cas: Cas, *names: str) -> list[str]:
    found = cas.json("plan", "target", "--conflicts", "ignore", *names)
    return [artifact["id"].replace(":t:12345678", "") for artifact in found["artifacts"]]


def test_higher_priority_wins_and_equal_ones_keep_their_order(
    cas: Cas, work: Path, trees: None
) -> None:
    assert _order(cas, "a", "b", "c") == ["a", "b", "c"]
    assert _order(cas, "a@1", "b", "c") == ["b", "c", "a@1"]
    assert _order(cas, "a", "b@-1", "c", "d") == ["b@-1", "a", "c", "d"]
    assert _order(cas, "c@5", "a@5", "b@2") == ["b@2", "c@5", "a@5"]
    script = ["--conflicts", "ignore", "--", "cat", "s/usr/x"]
    assert cas("run", "--sysroot", "s=a@1,b,c", *script).stdout == "a"
    (work / "ids").write_text("c@10\na\n")
    assert cas("run", "--sysroot-from", "s=ids", *script).stdout == "c"


@pytest.mark.parametrize("name", ["a@", "a@x", "a@1.5", "a@1@2", "a@--1", "a@9999999999"])
def test_malformed_priority_is_refused(cas: Cas, trees: None, name: str) -> None:
    assert "not an integer" in cas("mount", "target", name, code=2).stderr


def test_empty_id_is_refused(cas: Cas, trees: None) -> None:
    for name in ("", "@3"):
        assert "it is empty" in cas("mount", "target", name, code=2).stderr


def test_conflict_names_both_recipes_and_the_winner(cas: Cas, trees: None) -> None:
    done = cas("run", "--sysroot", "s=a,b,c", "--", "cat", "s/usr/x")

    assert done.stdout == "c"
    told = [line for line in done.stderr.splitlines() if "conflict" in line]
    assert told[0] == "cas: conflict: usr/x: c wins over a, b"
    assert told[1].startswith("cas: 1 conflict ")
    assert len(told) == 2
    # Those that agree with the winner are in no conflict with it.
    assert "usr/x: a wins over b" in cas("plan", "t", "d", "b", "a").stderr
    assert cas("plan", "t", "a", "d").stderr == ""


def test_conflict_within_a_recipe_names_whole_ids(cas: Cas, work: Path, trees: None) -> None:
    cas("put", "a:t:87654321", make(work / "a2", {"usr/x": "other"}))

    told = cas("plan", "t", "a:1234", "a:8765").stderr

    assert "usr/x: a:t:87654321 wins over a:t:12345678" in told


def test_conflict_policy_is_applied(cas: Cas, work: Path, trees: None) -> None:
    refused = cas("mount", "target", "a", "b", "--conflicts", "error", code=4)
    assert "usr/x: b wins over a" in refused.stderr
    assert not (work / "target").exists()
    run = ["run", "--sysroot", "s=a,b"]
    cas(*run, "--conflicts", "error", "--", "true", code=125)
    (work / "globs").write_text("# known\nno/such\nusr/*\n")
    for options in (
        ["--conflicts", "ignore"],
        ["--conflicts", "error", "--allow-overlap", "usr/x"],
        ["--conflicts", "error", "--allow-overlap", "u*"],
        ["--conflicts", "warn", "--allow-overlap", "nothing", "--allow-overlap", "*/x"],
        ["--conflicts", "error", "--allow-overlap-from", "globs"],
    ):
        assert cas(*run, *options, "--", "cat", "s/usr/x").stderr == ""
    assert "conflict" in cas(*run, "--allow-overlap", "usr/y", "--", "true").stderr


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"p": "1"}, {"p": "2"}),
        ({"p": "1"}, {"p*": "1"}),
        ({"p@": "1"}, {"p@": "2"}),
        ({"p": "1"}, {"p@": "1"}),
        ({"p": "1"}, {"p/q": "1"}),
        ({"p@": "q"}, {"p/q": "1"}),
    ],
)
def test_every_kind_of_difference_is_a_conflict(
    cas: Cas, work: Path, one: dict[str, str], other: dict[str, str]
) -> None:
    cas("put", "one:t:12345678", make(work / "one", one))
    cas("put", "other:t:12345678", make(work / "other", other))

    (conflict,) = cas.json("plan", "target", "one", "other")["conflicts"]

    assert conflict == {
        "path": "p",
        "winner": "other:t:12345678",
        "hidden": ["one:t:12345678"],
        "hides_directory": False,
    }


@pytest.mark.parametrize("kind", ["lib@", "lib"])
def test_hidden_directory_is_an_error_unless_allowed(cas: Cas, work: Path, kind: str) -> None:
    cas("put", "low:t:12345678", make(work / "low", {"lib/x": "x", "lib/deep/y": "y"}))
    cas("put", "high:t:12345678", make(work / "high", {kind: "usr", "usr/z": "z"}))
    cas("put", "over:t:12345678", make(work / "over", {"lib/x": "other"}))

    for options in ([], ["--conflicts", "ignore"], ["--allow-overlap", "*"]):
        refused = cas("plan", "target", "low", "high", *options, code=4).stderr
        assert "lib: high hides the whole directory of low" in refused
    assert "lib" in cas("plan", "target", "low", "high", "over", code=4).stderr
    cas("plan", "target", "high", "low")
    cas("mount", "target", "low", "high", "--allow-overlap", "lib", "--strategy", "hardlink")
    assert not (work / "target/lib/x").exists()
    assert (work / "target/usr/z").exists()
    cas("umount", "target")


def test_file_between_directories_hides_them(cas: Cas, work: Path) -> None:
    cas("put", "low:t:12345678", make(work / "low", {"lib/x": "x"}))
    cas("put", "file:t:12345678", make(work / "file", {"lib": "file"}))
    cas("put", "top:t:12345678", make(work / "top", {"lib/y": "y"}))
    plan = ["plan", "target", "low", "file", "top"]

    refused = cas(*plan, code=4).stderr
    assert "lib: file hides the whole directory of low" in refused
    assert "top hides" not in refused
    for same in ("lib", "/lib", "./lib"):
        cas("run", "--sysroot", "s=low,file,top", "--allow-overlap", same, "--",
            "sh", "-c", "test -e s/lib/y && ! test -e s/lib/x")  # fmt: skip
    for other in ("../lib", "/lib/x", "l*", "/*"):
        cas(*plan, "--allow-overlap", other, code=4)


def test_cached_conflicts_need_no_manifests(store: Store, work: Path) -> None:
    for name in "ab":
        store.put(f"{name}:t:12345678", make(work / name, {"x": name}))

    def conflicts() -> list[str]:
        with store.compose(["a", "b"]) as composition:
            return list(map(str, composition.conflicts))

    first = conflicts()
    for manifest in (work / "store/manifests").iterdir():
        manifest.rename(f"{manifest}.aside")
    assert conflicts() == first == ["x: b wins over a"]
    for manifest in (work / "store/manifests").iterdir():
        manifest.rename(str(manifest).removesuffix(".aside"))
    # An unreadable cache entry is a cache miss.
    for known in (work / "store/known").iterdir():
        known.write_text("[[")
    assert conflicts() == first


def test_refused_composition_holds_no_lease(store: Store, work: Path) -> None:
    for name in "ab":
        store.put(f"{name}:t:12345678", make(work / name, {"x": name}))

    with pytest.raises(ConflictRefused) as refused:
        store.compose(["a", "b"], conflicts=ConflictPolicy.ERROR)

    assert [c.path for c in refused.value.conflicts] == [b"x"]
    assert os.listdir(work / "store/leases") == []


def test_which_names_the_winner_and_hidden_providers(cas: Cas, work: Path, trees: None) -> None:
    cas("put", "link:t:12345678", make(work / "link", {"usr@": "elsewhere"}))

    found = cas.json("which", "usr/x", "a", "b", "c@-1")

    assert found["winner"]["id"] == "b:t:12345678"
    assert [hidden["id"] for hidden in found["hidden"]] == ["a:t:12345678", "c:t:12345678@-1"]
    digests = {name: cas.json("files", name)[-1]["digest"] for name in "abc"}
    assert found["winner"]["digest"] == digests["b"]
    assert [hidden["digest"] for hidden in found["hidden"]] == [digests["a"], digests["c"]]
    lines = cas("which", "/usr/x", "a", "b").stdout.splitlines()
    assert lines[0].startswith("wins   b:t:12345678")
    assert digests["b"] in lines[0]
    assert lines[1].startswith("hidden a:t:12345678")
    assert digests["a"] in lines[1]
    assert cas.json("which", "usr", "a", "b")["winner"]["kind"] == "directory"
    # A file hides everything below its path.
    assert cas.json("which", "usr/x", "a", "link")["winner"] is None
    assert "has nothing-like-it" in cas("which", "nothing-like-it", "a", code=1).stderr


@pytest.mark.per_user
@pytest.mark.parametrize("strategy", ["auto", "hardlink", "copy"])
def test_which_reads_a_mounted_sysroot(cas: Cas, work: Path, trees: None, strategy: str) -> None:
    cas("mount", "target", "a", "b", "--strategy", strategy)

    for path in ("target/usr/x", work / "target/usr/x"):
        found = cas.json("which", path)
        assert found["path"] == "usr/x"
        assert found["winner"]["id"] == "b:t:12345678"
        assert [hidden["id"] for hidden in found["hidden"]] == ["a:t:12345678"]
    assert "not in a sysroot" in cas("which", "a/usr/x", code=1).stderr
    assert "the sysroot itself" in cas("which", "target", code=1).stderr
    cas("umount", "target")


@pytest.mark.per_user
def test_which_reports_changes_in_a_writable_sysroot(cas: Cas, work: Path, trees: None) -> None:
    cas("mount", "target", "a", "b", "--rw")
    usr = work / "target/usr"

    for path in ("target/usr/x", "target/usr/a", "target/usr"):
        assert cas.json("which", path)["changed"] is False
    (usr / "x").unlink()
    (usr / "x").write_text("changed")
    (usr / "a").unlink()
    for path, winner in (("target/usr/x", "b:t:12345678"), ("target/usr/a", "a:t:12345678")):
        found = cas.json("which", path)
        assert (found["changed"], found["winner"]["id"]) == (True, winner)
        assert "was changed in this sysroot" in cas("which", path).stderr
    assert cas.json("which", "target/usr/b")["changed"] is False
    cas("umount", "target")


def test_which_reports_merged_directories_and_link_targets(
    cas: Cas, work: Path, trees: None
) -> None:
    cas("put", "link:t:12345678", make(work / "link", {"lib@": "usr/lib64", "usr/lib64/f": "f"}))

    lines = cas("which", "usr", "a", "link", "b").stdout.splitlines()
    assert [line[:21] for line in lines] == [
        "wins   b:t:12345678  ", "merged link:t:1234567", "merged a:t:12345678  ",
    ]  # fmt: skip
    told = cas("which", "lib/f", "a", "link", code=1).stderr
    assert "hint: " in told
    assert "lib is a symbolic link to usr/lib64" in told
    for whole in ("/", ".", "usr/.."):
        assert "Error" in cas("which", whole, "a", code=2).stderr


@pytest.mark.per_user
@pytest.mark.parametrize("strategy", ["overlay", "hardlink", "copy"])
def test_which_works_inside_a_run(cas: Cas, work: Path, trees: None, strategy: str) -> None:
    which = [CAS, "--store", str(cas.store), "which", "s/usr/x"]

    done = cas("run", "--strategy", strategy, "--sysroot", "s=a,b", "--", *which)

    assert done.stdout.startswith("wins   b:t:12345678 ")


@pytest.mark.per_user
def test_diff_compares_ids_directories_and_sysroots(cas: Cas, work: Path) -> None:
    both = {"same": "1", "d/": None}
    old = both | {"content": "1", "gone": "1", "bit": "1", "kind": "1", "l@": "1"}
    new = both | {"content": "2", "new": "1", "bit*": "1", "kind@": "1", "l@": "2"}
    cas("put", "old:t:12345678", make(work / "before", old))
    cas("put", "new:t:12345678", make(work / "after", new))
    expected = {
        "bit": "executable bit",
        "content": "content",
        "gone": "gone",
        "kind": "file became symlink",
        "l": "other target",
        "new": "added",
    }
    cas("mount", "mounted", "new")

    for a, b in (("old", "new"), ("before", "after"), ("old", "./after"), ("old", "mounted")):
        assert {d["path"]: d["how"] for d in cas.json("diff", a, b)} == expected
    lines = cas("diff", "old", "new").stdout.splitlines()
    assert lines[0] == "bit: executable bit"
    assert lines[1].startswith("  - f - ")
    assert lines[2].startswith("  + f x ")
    assert cas("diff", "new", "mounted").stdout == cas("diff", "old", "old").stdout == ""
    cas("umount", "mounted")
    cas("diff", "old", "nothing", code=3)
    os.mkfifo(work / "after/fifo")
    assert "fifo" in cas("diff", "old", "after", code=8).stderr


@pytest.fixture
def many(work: Path) -> Path:
    """A store with 1,200 artifacts; each brings a file of its own and one that all bring."""
    with Store(work / "store", create=True) as store:
        for number in range(1200):
            files = {f"own/{number}": str(number), "shared": str(number)}
            store.put(f"r{number}:t:12345678", make(work / f"trees/{number}", files))
    return work / "store"


def _compose(store: Store, count: int) -> Composition:
    return store.compose([f"r{n}" for n in range(count)], conflicts=ConflictPolicy.IGNORE)


@pytest.mark.per_user
def test_overlay_of_more_trees_than_the_kernel_takes(work: Path, many: Path) -> None:
    expected = {b"own": ("directory",)}
    for number in range(1200):
        expected |= snapshot(work / f"trees/{number}")
    with Store(many) as store:
        before = set(os.listdir(many / "layers"))
        with _compose(store, 1200) as composition:
            assert len(composition.layers) == 500
            assert seen_in_run(composition, work / "run") == expected
            (merged,) = set(os.listdir(many / "layers")) - before
            assert composition.layers[0] == merged
        made = os.stat(many / "layers" / merged).st_ctime_ns
        with _compose(store, 1200) as composition:  # made once
            assert os.stat(many / "layers" / merged).st_ctime_ns == made
        assert list(store.verify()) == []
        # While it is in use it is kept, with its parts; then it is removed with the first of them.
        with _compose(store, 1200) as composition, pytest.raises(Exception, match="in use"):
            store.remove(["r0"])
        objects = len(objects_of(many))
        store.remove(["r0"])
        assert set(os.listdir(many / "layers")) < before
        assert len(objects_of(many)) == objects - 1
        assert [name for name in os.listdir(many / "known") if name.startswith("merged")] == []


def test_merged_layer_serves_every_strategy_and_is_removed_when_unused(
    cas: Cas, work: Path, many: Path
) -> None:
    before = set(os.listdir(many / "layers"))
    with Store(many) as store:
        with _compose(store, 1200) as composition:
            layers = composition.layers
            overlaid = seen_in_run(composition, work / "run")
            with mounter.mounted(composition, work / "linked", Strategy.HARDLINK):
                assert snapshot(work / "linked") == overlaid
        assert len(overlaid) == 1202
        with _compose(store, 1200) as composition:
            assert composition.layers == layers
            (merged,) = set(os.listdir(many / "layers")) - before
            cas("gc", "--grace", "0s")  # in use
            assert merged in os.listdir(many / "layers")
    cas("gc", "--grace", "0s")
    assert set(os.listdir(many / "layers")) == before
    assert [name for name in os.listdir(many / "known") if name.startswith("merged")] == []
    assert len(cas.json("ls")) == 1200


def test_merged_layer_damaged_by_power_failure_is_rebuilt(work: Path, many: Path) -> None:
    with Store(many) as store:
        with _compose(store, 501) as composition:
            merged = composition.layers[0]
        (known,) = [p for p in (many / "known").iterdir() if p.name.startswith("merged")]
        text = unseal(known.read_bytes()).decode()
        known.write_bytes(seal(text.replace(text.split('"')[1], "another-boot")))
        (many / "layers" / merged / "own" / "0").unlink()

        with _compose(store, 501) as composition:
            assert composition.layers[0] == merged
        assert (many / "layers" / merged / "own" / "0").read_text() == "0"
        assert os.listdir(many / "tmp") == []


def test_missing_object_of_a_merged_layer_is_reported_as_damage(many: Path) -> None:
    content = (many / "layers").glob("*/own/0")
    inode = next(content).stat().st_ino
    (path,) = [path for path in objects_of(many) if os.stat(path).st_ino == inode]
    os.unlink(path)

    with Store(many) as store, pytest.raises(StoreDamaged, match="an object is missing"):
        _compose(store, 501)
    assert os.listdir(many / "tmp") == []


@given(st.lists(st.sampled_from([b"d", b"l one", b"l two", None]), min_size=2, max_size=6))
def test_conflict_names_the_provider_that_hides_each_other(nodes: list[bytes | None]) -> None:
    """The expectation comes from copying one tree after the other over the last."""
    manifests = [Manifest({} if node is None else {b"p": node}) for node in nodes]
    hiding: dict[int, set[int]] = {}
    directories: set[int] = set()
    for number, node in enumerate(nodes):
        if node == b"d":
            directories.add(number)
        elif node is not None and directories:
            hiding[number], directories = directories, set()
    found = find_overlaps(manifests)

    assert {o.winner: set(o.hidden) for o in found if o.directory} == hiding
    there = [(number, node) for number, node in enumerate(nodes) if node is not None]
    others = {n for n, node in there if node not in (b"d", there[-1][1])}
    assert [set(o.hidden) for o in found if not o.directory] == ([others] if others else [])
    assert all(o.winner == there[-1][0] for o in found if not o.directory)
