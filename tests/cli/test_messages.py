"""Messages beside the data: verbose details, colours, and the summary of an interrupted command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.running import strace
from tests.helpers.support import CAS, Cas, make, shown_on_terminal, sound

ID = "a:t:12345678"


@pytest.fixture
def tree(work: Path) -> Path:
    return make(work / "tree", {"f": "f", "g": "f", "h": "h"})


def test_verbose_reports_what_was_used_and_the_time(cas: Cas, tree: Path) -> None:
    done = cas("put", ID, tree, "--verbose")
    again = cas("-v", "put", "--json", ID, tree)

    assert done.stdout == cas("put", "--replace", ID, tree).stdout.replace(
        "unchanged", "stored"
    ).replace("0 bytes new", "2 bytes new")
    store, contents, took = done.stderr.splitlines()
    assert store == f"cas: the store is {cas.store} (--store)"
    assert contents == "cas: 2 of 3 files had new contents"
    assert took.startswith("cas: put took ")
    assert "cas: 0 of 3 files had" in again.stderr


@pytest.mark.parametrize(
    ("variables", "source"),
    [
        ({"CAS_STORE": "{0}/a"}, "$CAS_STORE"),
        ({"XDG_CACHE_HOME": "{0}"}, "$XDG_CACHE_HOME"),
        ({"HOME": "{0}"}, "by default"),
    ],
)
def test_verbose_reports_where_the_store_setting_comes_from(
    work: Path, tree: Path, variables: dict[str, str], source: str
) -> None:
    clean = {"PATH": os.environ["PATH"], **{k: v.format(work) for k, v in variables.items()}}
    done = subprocess.run(
        [CAS, "put", "-v", ID, tree], env=clean, check=True, capture_output=True, text=True
    )

    assert f"({source})" in done.stderr.splitlines()[0]


def test_quiet_and_verbose_is_a_usage_error(cas: Cas) -> None:
    for arguments in (("-q", "ls", "-v"), ("-v", "ls", "-q"), ("ls", "-q", "-v"), ("-qv", "ls")):
        assert "not both" in cas(*arguments, code=2).stderr
    assert cas("-v", "run", "-q", "--", "true", code=125).stdout == ""


_COLOURED, _PLAIN = "\033[1;31mcas:\033[0m no such", "cas: no such"


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "0"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_errors_are_coloured_on_capable_terminals(
    cas: Cas, tree: Path, variables: dict[str, str], coloured: bool
) -> None:
    cas("put", ID, tree)

    shown = shown_on_terminal(cas, "show", "b", code=3, variables=variables)

    assert shown.startswith(_COLOURED if coloured else _PLAIN)
    assert ("\033" in shown) is coloured
    assert "\033" not in cas("show", "b", code=3).stderr
    usage = shown_on_terminal(cas, "show", "--nothing", code=2, variables=variables)
    assert usage.startswith("Usage: cas show")
    assert ("\033" in usage) is coloured


def _interrupted(cas: Cas, number: signal.Signals, call: str, *arguments: str | Path) -> str:
    """Run a command that a signal meets in its first system call of a kind; return its line."""
    inject = f"inject={call}:signal={number.name}:when=1"
    traced = Cas(cas.store, cas.directory, strace(f"trace={call}", inject))
    done = traced(*arguments, code=128 + number)
    (line,) = filter(None, done.stderr.split("\n"))
    return line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_interrupted_put_reports_that_nothing_was_stored(
    cas: Cas, work: Path, tree: Path, number: signal.Signals, options: tuple[str, ...]
) -> None:
    cas("put", "other:t:12345678", tree)
    new = make(work / "new", {"link@": "f"})

    said = _interrupted(cas, number, "symlinkat", "put", *options, ID, new)

    assert said == "cas: interrupted: nothing was stored"
    assert [one["id"] for one in cas.json("ls")] == ["other:t:12345678"]
    sound(cas.store)


def test_interrupted_read_only_command_has_no_summary(cas: Cas, tree: Path) -> None:
    cas("put", ID, tree)

    assert _interrupted(cas, signal.SIGINT, "write", "ls") == "cas: interrupted"


def _logging(cas: Cas, level: str) -> Cas:
    return replace(cas, wrapper=("env", f"CAS_LOG={level}"))


def test_debug_messages_appear_only_on_request(cas: Cas, work: Path, tree: Path) -> None:
    for asked in (("-vv",), ("-v", "-v")):
        shown = cas(*asked, "put", "--replace", ID, tree).stderr
        assert re.search(r"^cas: +[0-9]+ ms  put: ", shown, re.MULTILINE)
    after = cas("plan", "-vv", work / "s", "a").stderr
    assert re.search(r"^cas: +[0-9]+ ms  .*strategy", after, re.MULTILINE)
    by_variable = _logging(cas, "debug")("put", "--replace", ID, tree).stderr
    assert " ms  put: " in by_variable
    for options in ((), ("-v",)):
        assert " ms  " not in cas(*options, "put", "--replace", ID, tree).stderr


def test_unknown_log_level_is_a_usage_error(cas: Cas) -> None:
    refused = _logging(cas, "loud")("ls", code=2).stderr

    assert refused == (
        "cas: CAS_LOG has the unknown value loud\nhint: set it to debug, or unset it\n"
    )
    _logging(cas, "loud")("run", "--", "true", code=125)
    _logging(cas, "")("init")
