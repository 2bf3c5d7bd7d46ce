"""The documents of `--json` match their schemas, for every command, and the schemas are complete.

`Cas.json` checks every document that any test reads; see `tests.helpers.schemas`.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cas.content.findings import FaultKind
from cas.remote.results import Outcome
from mounter.plan import Strategy
from tests.helpers.archives import HASH, member, write_sstate
from tests.helpers.schemas import (
    GROUPS,
    SCHEMAS,
    check,
    closed,
    commands,
    parts,
    schema_of,
    schema_path,
)
from tests.helpers.support import CAS, Cas, is_estimate, make

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs/json.md").read_text()
RUN = {"run": "cas run --report", "run trace": "cas run --trace"}
"""The files that `cas run` writes."""
ZLIB = "zlib:core2-64:do_populate_sysroot:9f2c41d0"
FORK = "zlib-ng:do_populate_sysroot:5a5a5a5a"
ABSENT = "absent:do_populate_sysroot:12345678"
NOW = ("--max-age=0s", "--grace=0s")
COMMANDS = commands()
WITH_JSON = [
    name for name, command in COMMANDS.items() if any(p.name == "as_json" for p in command.params)
]


@pytest.fixture(autouse=True)
def stored(cas: Cas, work: Path) -> None:
    """Two artifacts that conflict at a path that is not UTF-8."""
    for name, id_ in (("zlib", ZLIB), ("fork", FORK)):
        tree = make(work / name, {"usr/lib/libz.so@": name, f"usr/bin/{name}*": name, "d/": None})
        (tree / os.fsdecode(b"usr/\xff\n.h")).write_text(name)
        cas("put", id_, tree)


def test_command_that_prints_data_accepts_json() -> None:
    assert set(COMMANDS) - set(WITH_JSON) == {"run", "completion"}
    assert {name.split()[0] for name in COMMANDS if " " in name} == set(GROUPS)


def test_command_with_json_has_a_schema_and_is_documented() -> None:
    assert set(SCHEMAS.iterdir()) == {*map(schema_path, WITH_JSON), *map(schema_path, RUN)}
    lines = []
    for name in WITH_JSON:
        file, text = schema_path(name).name, schema_of(name)["description"]
        lines.append(f"| `cas {name}` | [{file}](schemas/{file}) | {text} |")
    assert re.findall(r"^\| `cas .*$", PAGE, re.MULTILINE) == lines


@pytest.mark.parametrize("command", [*WITH_JSON, *RUN])
def test_schema_describes_and_requires_each_property(command: str) -> None:
    schema = schema_of(command)

    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    assert schema["title"] == RUN.get(command, f"cas {command} --json")
    known = {
        "$schema", "$defs", "$ref", "title", "description", "type", "required", "properties",
        "items", "anyOf", "oneOf", "enum", "const", "pattern", "minimum",
    }  # fmt: skip
    for one in parts(schema):
        assert one.keys() <= known  # those that `closed` and `parts` look into, or need not
        properties = one.get("properties", {})
        assert one.get("required", []) == list(properties)
        for name, described in properties.items():
            text = described["description"]
            assert text.endswith("."), name
            assert "nanoseconds" in text or not name.endswith("_ns"), name
            assert "bytes" in text or not (name.endswith("bytes") or name == "size"), name


def test_definition_means_the_same_in_all_schemas() -> None:
    found: dict[str, Any] = {}
    for command in [*WITH_JSON, *RUN]:
        for name, definition in schema_of(command).get("$defs", {}).items():
            assert found.setdefault(name, definition) == definition, (command, name)


def test_schema_enumerations_match_the_code() -> None:
    def words(command: str, name: str) -> set[str | None]:
        return {
            word
            for schema in parts(schema_of(command))
            for word in schema.get("properties", {}).get(name, {}).get("enum", [])
        }

    assert words("verify", "kind") == {kind.value for kind in FaultKind}
    outcomes = {outcome.value for outcome in Outcome}
    assert words("push", "status") | words("pull", "status") == outcomes
    assert words("put", "push") == words("push", "status") | {"failed", None}
    made = {s.value for s in Strategy} - {"auto", "linked"}
    assert words("mount", "strategy") == words("update", "strategy") == made
    assert words("plan", "strategy") == words("mounts", "strategy") - {None} == made


def _steps(cas: Cas, there: Cas, work: Path) -> Iterator[tuple[str, Any]]:
    """Run each command for its purpose; yield its name and its document."""
    remote = f"file://{work}/remote"
    sstate = write_sstate(work / "sstate", "m4", [member("sysroot-destdir/usr/m4", b"4")])
    steps: list[list[str]] = [
        ["init"],
        ["has", ZLIB],
        ["ls"],
        ["show", ZLIB],
        ["files", ZLIB],
        ["du", "zlib", "zlib-ng"],
        ["stats", "--by", "recipe"],
        ["log"],
        ["report", "store.html"],
        ["config", "--show"],
        ["which", "usr/lib/libz.so", "zlib", "zlib-ng@-1"],
        ["diff", "zlib", "zlib-ng"],
        ["plan", "sysroot", "zlib@2", "zlib-ng"],
        ["mount", "sysroot", "zlib@2", "zlib-ng"],
        ["mounts"],
        ["update", "sysroot", "zlib-ng", "zlib"],
        ["umount", "sysroot"],
        ["pin", "zlib", "--reason", "release"],
        ["pins"],
        ["unpin", "zlib"],
        ["export", "zlib", "copy"],
        ["push", remote, "--all"],
        ["remote", "ls", remote],
        ["key", "generate", "key"],
        ["import", "sstate", str(sstate)],
        ["put", FORK, "fork"],
        ["sync"],
        ["doctor"],
        ["rebuild-index"],
        ["gc", "--dry-run", *NOW],
        ["rm", "zlib"],
        ["gc", *NOW],
    ]
    for command, *arguments in steps:
        name = f"{command} {arguments[0]}" if command in GROUPS else command
        yield name, cas.json(command, *arguments)
    yield "remote has", cas.json("remote", "has", remote, ZLIB, ABSENT, code=3)
    yield "pull", there.json("pull", remote, ZLIB, ABSENT, code=3)
    Path(there.json("show", "zlib")["layer"], "usr/bin/zlib").unlink()
    yield "verify", there.json("verify", code=6)


def _places(value: Any) -> Iterator[Any]:
    """Yield all objects in a document."""
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value:
        if isinstance(one, dict | list):
            yield from _places(one)


def _is_valid(command: str, document: Any) -> bool:
    return jsonschema.Draft202012Validator(schema_of(command)).is_valid(document)  # type: ignore[no-any-return]


def test_missing_or_extra_property_is_noticed(cas: Cas, there: Cas, work: Path) -> None:
    found = list(_steps(cas, there, work))

    assert {name for name, _ in found} == set(WITH_JSON)
    for command, document in found:
        changed = copy.deepcopy(document)
        assert document, command
        for place in _places(changed):
            for name in list(place):
                value = place.pop(name)
                assert not _is_valid(command, changed), (command, name)
                place[name] = {"an": "object"} if not isinstance(value, dict) else []
                assert not _is_valid(command, changed), (command, name)
                place[name] = value
            place["addition"] = 1
            assert _is_valid(command, changed), command  # it is for consumers to pass over
            with pytest.raises(AssertionError, match="addition"):
                check(command, changed)
            del place["addition"]


def test_closed_schema_allows_described_properties_only() -> None:
    both = {"$ref": "#/$defs/a", "properties": {"b": {}}, "$defs": {"a": {"properties": {"a": {}}}}}
    for schema in (both, {"$defs": both["$defs"], "oneOf": [both]}):
        validator = jsonschema.Draft202012Validator(closed(schema))
        assert validator.is_valid({"a": 1, "b": 2})
        assert not validator.is_valid({"a": 1, "b": 2, "c": 3})


def test_empty_result_is_an_empty_document(cas: Cas, there: Cas, work: Path) -> None:
    assert there.json("ls") == []
    assert there.json("has", ZLIB, code=3) == {"missing": [ZLIB]}
    assert there.json("doctor")[-1]["works"] is True
    assert not there.store.exists()
    there.json("init")
    for command in ("ls", "mounts", "pins"):
        assert there.json(command) == []
    assert there.json("rebuild-index") == {"artifacts": [], "lost": [], "lost_ids": []}
    assert there.json("gc") == {"removed": [], "freed_bytes": 0}
    assert there.json("gc", "--dry-run", "--max-size=1T")["would_remove"] == []
    assert there.json("verify", "--repair") == {"findings": [], "repaired": []}
    assert there.json("umount", "--all-stale") == {"unmounted": [], "forgotten": []}
    (work / "remote").mkdir()
    assert there.json("remote", "ls", f"file://{work}/remote") == []
    assert there.json("push", f"file://{work}/remote", "--all") == {"artifacts": []}
    assert cas.json("diff", ZLIB, "./zlib") == []
    assert cas.json("has", ZLIB) == {"missing": []}


def test_error_prints_no_document(cas: Cas, work: Path) -> None:
    for arguments, code in (
        (["show", "nothing"], 3),
        (["put", ZLIB, "fork"], 4),
        (["mount", "target", "zlib", "zlib-ng", "--conflicts", "error"], 4),
        (["plan", "target", "zlib", "zlib-ng", "--conflicts", "error"], 4),
        (["umount", "target"], 1),
        (["unpin", "zlib"], 3),
        (["pin", "nothing"], 3),
        (["export", "zlib", "fork"], 7),
        (["ls", "--nonsense"], 2),
    ):
        assert cas(*arguments, "--json", code=code).stdout == "", arguments


def test_path_bytes_survive_json(cas: Cas, work: Path) -> None:
    odd = os.fsdecode(b"usr/\xff\n.h")

    assert odd in [entry["path"] for entry in cas.json("files", "zlib")]
    assert {one["path"] for one in cas.json("diff", "zlib", "zlib-ng")} >= {odd}
    conflicts = cas.json("plan", "target", "zlib", "zlib-ng")["conflicts"]
    assert [one["path"] for one in conflicts] == ["usr/lib/libz.so", odd]
    assert cas.json("which", odd, "zlib", "zlib-ng")["winner"]["id"] == FORK
    name = os.fsdecode(b"\xfe \n")
    made = (
        cas.json("key", "generate", name)["path"],
        cas.json("export", "zlib", f"{name}copy")["path"],
        cas.json("mount", f"{name}target", "zlib")["target"],
        cas.json("mounts")[0]["where"],
        cas.json("umount", f"{name}target")["unmounted"][0],
    )
    assert made == (name, f"{name}copy", *[f"{work}/{name}target"] * 3)


@pytest.mark.per_user
def test_mount_documents_cover_every_strategy(cas: Cas, work: Path) -> None:
    works = {found["name"]: found["works"] for found in cas.json("doctor")}
    overlay = works["overlay with privileges"]
    strategies = ["hardlink", "copy", "auto", *(["overlay"] if overlay else [])]
    for strategy in strategies:
        made = cas.json("mount", strategy, "zlib@2", "zlib-ng", "--strategy", strategy)
        best = "overlay" if overlay else "hardlink"
        assert made["strategy"] == (best if strategy == "auto" else strategy)
        assert (made["reasons"] != []) is (strategy == "auto" and not overlay)
        assert made["ids"] == [FORK, f"{ZLIB}@2"]
        assert len(made["conflicts"]) == 2
    cas.json("mount", "writable", "zlib", "--rw", "--strategy", "copy")
    assert {seen["state"] for seen in cas.json("mounts")} == {"alive"}

    found = cas.json("which", "hardlink/usr/lib/libz.so")
    assert (found["winner"]["target"], found["hidden"][0]["id"]) == ("zlib", FORK)
    assert not found["changed"]
    done = cas.json("update", "hardlink", "--drop", "zlib")
    assert (done["gap_ns"], done["why_gap"], done["ids"]) == (0, None, [FORK])

    subprocess.run(["chmod", "-R", "u+w", "copy"], cwd=work, check=True)
    shutil.rmtree(work / "copy")
    assert cas.json("umount", "--all-stale") == {"unmounted": [], "forgotten": [f"{work}/copy"]}
    for target in ("hardlink", "auto", "writable", *(["overlay"] if overlay else [])):
        unmounted = {"unmounted": [str(work / target)], "forgotten": []}
        assert cas.json("umount", target) == unmounted


def test_running_command_has_no_strategy(cas: Cas) -> None:
    seen = cas("run", "--sysroot", "s=zlib", "--", CAS, "--store", cas.store, "mounts", "--json")

    (found,) = json.loads(seen.stdout)
    check("mounts", [found])
    assert (found["state"], found["strategy"], found["ids"]) == ("running", None, [ZLIB])


def test_dry_run_document_matches_the_collection(cas: Cas) -> None:
    cas("pin", "zlib")
    before = cas.json("gc", "--dry-run", *NOW, "--keep-last=1")
    told = cas.json("gc", "--dry-run", *NOW, "--max-size=1")
    done = cas.json("gc", *NOW, "--max-size=1")

    assert (before["would_remove"], before["kept"], before["store_bytes"]) == ([], 2, None)
    assert [one["id"] for one in told["would_remove"]] == done["removed"] == [FORK]
    assert told["store_bytes"] >= told["frees_bytes"] > 0
    assert is_estimate(told["frees_bytes"], done["freed_bytes"], 1)
    assert cas.json("rm", "--force", "zlib")["removed"] == [ZLIB]


def test_damage_documents_name_lost_artifacts(cas: Cas, work: Path) -> None:
    layer = Path(cas.json("show", "zlib")["layer"])
    (cas.store / "manifests" / layer.name).unlink()

    assert cas.json("doctor", code=6)[-1]["works"] is False
    assert "manifest" in {one["kind"] for one in cas.json("verify", code=6)["findings"]}
    rebuilt = cas.json("rebuild-index")
    assert (rebuilt["artifacts"], rebuilt["lost_ids"]) == ([FORK], [ZLIB])
    assert rebuilt["lost"][0].startswith(f"{ZLIB}: ")
    assert cas.json("verify", "--repair")["repaired"] != []
    (cas.store / "index/data.mdb").write_bytes(b"x" * 8192)
    assert [one["kind"] for one in cas.json("verify", code=6)["findings"]] == ["index"]


def test_push_and_pull_documents_have_each_outcome(cas: Cas, there: Cas, work: Path) -> None:
    remote, broken = f"file://{work}/remote", "file:///dev/null/remote"

    def states(*arguments: str, by: Cas = cas, code: int = 0) -> list[str]:
        return [one["status"] for one in by.json(*arguments, code=code)["artifacts"]]

    assert states("push", remote, ZLIB) == ["pushed"]
    assert cas.json("put", ZLIB, "zlib")["push"] is None
    assert cas.json("put", ZLIB, "zlib", "--push", remote)["push"] == "known"
    assert cas.json("put", FORK, "fork", "--push", remote)["push"] == "pushed"
    assert cas.json("put", FORK, "fork", "--push", broken)["push"] == "failed"
    there("put", ZLIB, work / "fork")
    assert states("push", remote, ZLIB, by=there, code=4) == ["conflict"]
    assert there.json("put", ZLIB, work / "fork", "--push", remote)["push"] == "conflict"
    assert states("pull", remote, FORK, ZLIB, ABSENT, by=there, code=3) == [
        "missing", "pulled", "known",
    ]  # fmt: skip
    there("rm", FORK)
    public = there.json("key", "generate", "key")["public"]
    (there.store / "config.toml").write_text(f'trusted_keys = ["{public}"]')
    assert states("pull", remote, FORK, by=there, code=3) == ["untrusted"]


def test_refused_sstate_object_is_listed_with_the_others(cas: Cas, work: Path) -> None:
    good = write_sstate(work / "sstate", "m4", [member("sysroot-destdir/usr/m4", b"4")])
    bad = write_sstate(work / "sstate", "perl", [member("sysroot-destdir/../x", b"")])
    found = {one["path"]: one for one in cas.json("import", "sstate", good, bad, code=8)["objects"]}

    assert found[str(good)]["id"] == f"m4:core2-64:do_populate_sysroot:{HASH}"
    assert found[str(good)]["status"] == "stored"
    assert (found[str(bad)]["status"], found[str(bad)]["tree"]) == ("refused", None)
    assert cas.json("import", "sstate", good)["objects"][0]["status"] == "known"


def test_json_page_example_runs(cas: Cas) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    environment = os.environ | {"CAS_STORE": str(cas.store)}

    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environment, check=True)
