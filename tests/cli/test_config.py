"""Precedence of command line, environment and config.toml; invalid settings are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.options.settings import SETTINGS
from tests.helpers.support import Cas, make

_DOCUMENT = Path(__file__).parents[2] / "docs/configuration.md"


@pytest.fixture
def conflicting(cas: Cas, work: Path) -> Cas:
    """A store with two artifacts that have different files at one path."""
    for name in ("one", "two"):
        cas("put", f"{name}:do_x:12345678", make(work / name, {"path": name}))
    return cas


def _settings(cas: Cas) -> dict[str, tuple[object, str]]:
    settings = cas.json("config", "--show")["settings"]
    return {setting["name"]: (setting["value"], setting["from"]) for setting in settings}


def test_command_line_wins_over_environment_over_file(
    conflicting: Cas, monkeypatch: pytest.MonkeyPatch
) -> None:
    cas, file = conflicting, conflicting.store / "config.toml"
    plan = ("plan", "target", "one", "two")
    assert "conflict" in cas(*plan).stderr
    file.write_text('conflicts = "error"\nstrategy = "copy"\n')
    cas(*plan, code=4)
    cas("run", "--sysroot", "x=one,two", "--", "true", code=125)
    assert "strategy: copy" in cas(*plan, "--conflicts", "ignore").stdout
    monkeypatch.setenv("CAS_CONFLICTS", "ignore")
    monkeypatch.setenv("CAS_STRATEGY", "hardlink")
    assert "strategy: hardlink" in cas(*plan).stdout
    cas(*plan, "--conflicts", "error", code=4)
    assert _settings(cas)["conflicts"] == ("ignore", "CAS_CONFLICTS")
    monkeypatch.delenv("CAS_CONFLICTS")
    assert _settings(cas)["conflicts"] == ("error", "file")
    file.write_text('conflicts = "error"\nallow_overlap = ["other", "pa*"]\n')
    assert not cas(*plan).stderr
    cas(*plan, "--allow-overlap", "other", code=4)
    monkeypatch.setenv("CAS_ALLOW_OVERLAP", "this that")
    cas(*plan, code=4)
    monkeypatch.setenv("CAS_ALLOW_OVERLAP", "this path")
    cas(*plan)
    file.unlink()
    assert _settings(cas)["conflicts"] == ("warn", "default")


def test_gc_uses_the_limits_of_the_file(conflicting: Cas, monkeypatch: pytest.MonkeyPatch) -> None:
    cas, file = conflicting, conflicting.store / "config.toml"
    file.write_text('[gc]\nmax_size = "0"\ngrace = "0s"\nkeep_last = 1\n')
    cas("put", "one:do_x:22345678", cas.directory / "two")

    def count_candidates(*options: str) -> int:
        return len(cas.json("gc", "--dry-run", *options)["would_remove"])

    assert count_candidates() == 1
    assert count_candidates("--keep-last", "2") == 0
    assert count_candidates("--grace", "1h") == 0
    monkeypatch.setenv("CAS_GC_KEEP_LAST", "2")
    assert count_candidates() == 0
    assert _settings(cas)["gc.keep_last"] == ("2", "CAS_GC_KEEP_LAST")
    assert _settings(cas)["gc.max_size"] == ("0", "file")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("conflicts = 3", "conflicts must be a string"),
        ('conflicts = "some"', "conflicts: 'some' is not one of"),
        ('strategy = "linked"', "strategy: 'linked' is not one of"),
        ('allow_overlap = "x"', "allow_overlap must be a list of strings"),
        ("allow_overlap = [1]", "allow_overlap must be a list of strings"),
        ('[gc]\nmax_age = "30y"', "gc.max_age: '30y' is not a number followed by"),
        ("[gc]\nmax_size = 1.5", "gc must be a table"),
        ("[gc]\nkeep_last = 0", "gc.keep_last: 0 is not in the range"),
        ("[gc]\nmaxage = 1", "there is no setting `gc.maxage`; did you mean gc.max_age"),
        ("gc = 1", "gc must be a table"),
        ("nonsense", "config.toml"),
    ],
)
def test_invalid_setting_is_reported_and_nothing_is_done(
    conflicting: Cas, text: str, reason: str
) -> None:
    cas = conflicting
    (cas.store / "config.toml").write_text(text)
    commands = [("config",), ("gc",)] if "gc" in text else [("config",), ("plan", "x", "one")]
    for command in commands:
        stderr = cas(*command, code=2).stderr
        assert reason in stderr
        assert "config.toml" in stderr
    if "gc" not in text or "no setting" in reason:
        assert reason in cas("run", "--", "true", code=125).stderr
    assert cas("ls").stdout.count("do_x") == 2


def test_documented_settings_are_valid_and_complete(cas: Cas) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", _DOCUMENT.read_text(), re.DOTALL)
    cas("init")
    (cas.store / "config.toml").write_text(example)

    assert {source for _, source in _settings(cas).values()} == {"file"}
    for setting in SETTINGS:
        assert f"# {setting.variable}" in example
