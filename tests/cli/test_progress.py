"""Progress: shown on a terminal only, and wiped at the end."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from cli.output.progress import DELAY_S
from cli.output.quantities import ago_text, span_text
from tests.helpers.archives import member, write_sstate
from tests.helpers.running import strace
from tests.helpers.support import CAS, Cas, make, shown_on_terminal

_MANY = {f"usr/d{n % 30}/f{n}": str(n) for n in range(1200)}
"""More files than one progress update reports."""
_PUT = ("put", "many:t:12345678", "many")
_MOUNT = ("mount", "target", "many", "--strategy")


@pytest.fixture
def many(cas: Cas, work: Path) -> Path:
    return make(work / "many", _MANY)


@pytest.mark.parametrize(
    ("before", "command", "label", "counts"),
    [
        ([], _PUT, "Storing", "1200/1200 files"),
        ([_PUT], ("export", "many", "exported"), "Exporting", "1231/1231 entries"),
        ([_PUT], ("export", "many", "exported.tar.gz"), "Exporting", "1231/1231 entries"),
        ([_PUT], (*_MOUNT, "hardlink"), "Making the tree", "1200/1200 files"),
        ([_PUT], (*_MOUNT, "copy"), "Making the tree", "1200/1200 files"),
        ([_PUT, (*_MOUNT, "copy")], ("umount", "target"), "Removing", "1232/1232 entries"),
        ([_PUT, (*_MOUNT, "copy")], ("update", "target", "many"), "Updating", "1200/1200 entries"),
        (
            [_PUT],
            ("run", "--strategy=hardlink", "--sysroot", "target=many", "--", "true"),
            "Making the trees",
            "1200/1200 files",
        ),
        ([_PUT], ("rebuild-index",), "Reading", "1/1 artifacts"),
        ([_PUT], ("rm", "many"), "Removing", "MiB/s|KiB/s"),
        ([_PUT], ("gc", "--max-age=0s", "--grace=0s"), "Removing", "100%"),
        ([_PUT], ("verify",), "Reading contents", "100%"),
        ([], ("doctor",), "Trying links", r"\d\d000/70000 links"),
        ([_PUT], ("init", "--shared"), "Sharing", r"\d\d\d\d files"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_progress_is_shown_and_wiped_on_a_terminal(
    cas: Cas,
    many: Path,
    before: list[tuple[str, ...]],
    command: tuple[str, ...],
    label: str,
    counts: str,
) -> None:
    for arguments in before:
        cas(*arguments)

    shown = shown_on_terminal(cas, *command)

    drawn = shown.split("\r")
    assert any(re.match(f"{label}  .*({counts})", line) for line in drawn), drawn
    assert drawn[-1] == ""
    assert drawn[-2].strip() == ""
    assert len(drawn[-2]) >= len(drawn[-3].rstrip())
    if command[0] in ("mount", "run"):
        cas("umount", "target", code=None)


def test_progress_of_one_large_artifact_is_shown(cas: Cas, work: Path) -> None:
    large = make(work / "large", {})
    for number in range(3):
        (large / str(number)).write_bytes(os.urandom(20_000_000))
    id_, remote = "large:t:12345678", f"file://{work}/remote"
    members = [member(f"sysroot-destdir/{n}", os.urandom(2_000_000)) for n in range(5)]
    archive = write_sstate(work / "sstate", "m4", members)
    cas("put", id_, large)

    pushed = shown_on_terminal(cas, "push", remote, id_)
    cas("rm", "large")
    pulled = shown_on_terminal(cas, "pull", remote, id_)
    cas("rm", "large")
    run = shown_on_terminal(cas, "run", "--remote", remote, "--sysroot", f"s={id_}", "--", "true")
    imported = shown_on_terminal(cas, "import", "sstate", archive)

    for shown, label in ((pushed, "Pushing"), (pulled, "Pulling"), (imported, "Importing")):
        steps = re.findall(rf"{label}  .* 0%  0/1 \w+  ([0-9.]+) MiB", shown.replace("\r", "\n"))
        assert len(set(steps)) > 1, shown
        assert sorted(map(float, steps)) == list(map(float, steps))
    assert len(set(re.findall(r"Pulling  ([0-9.]+) MiB", run))) > 1


@pytest.mark.parametrize("options", [(), ("--json",), ("-q",)])
def test_progress_is_hidden_without_a_terminal(
    cas: Cas, many: Path, options: tuple[str, ...]
) -> None:
    assert cas("put", *options, *_PUT[1:]).stderr == ""
    assert cas(*_MOUNT, "hardlink", *options).stderr == ""
    assert cas("umount", "target", *options).stderr == ""
    assert shown_on_terminal(cas, "verify", "-q") == ""


def test_quick_command_shows_no_progress(cas: Cas, many: Path) -> None:
    assert shown_on_terminal(cas, *_PUT, delay_s=3600) == ""


def test_long_command_shows_progress(cas: Cas, many: Path) -> None:
    """Each process waits at its first file until progress must be shown."""
    late = f"inject=linkat:delay_enter={int(DELAY_S * 1.1e6)}:when=1"
    slow = (*strace("trace=linkat", late), CAS)

    shown = shown_on_terminal(cas, *_PUT, program=slow)

    assert re.search(r"Storing  \[#*-*\] +\d+%  \d+/1200 files  [0-9.]+ KiB  [0-9.]+ \w+/s", shown)


def test_progress_fits_a_narrow_terminal(cas: Cas, many: Path) -> None:
    shown = shown_on_terminal(cas, *_PUT, columns=30)

    assert max(map(len, shown.split("\r"))) == 29


_SECOND = 10**9


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (-59, "just now"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (2 * 86400 + 5, "2 days ago"),
        (45 * 86400, "45 days ago"),
        (3 * 365 * 86400, "3 years ago"),
        (-7200, "in 2 hours"),
    ],
)
def test_ages_are_rounded_for_people(seconds: int, text: str) -> None:
    assert ago_text(10**18 - seconds * _SECOND, 10**18) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(5 * 10**6, "5 ms"), (1500 * 10**6, "1.5 s"), (125 * _SECOND, "2 min 5 s")],
)
def test_spans_are_rounded_for_people(nanoseconds: int, text: str) -> None:
    assert span_text(nanoseconds) == text


def test_tables_show_ages_and_documents_show_times(cas: Cas, work: Path) -> None:
    cas("put", "a:t:12345678", make(work / "tree", {"f": "f"}))
    cas("pin", "a")

    for table in ("ls", "pins"):
        assert "just now" in cas(table).stdout
    assert re.search(
        r"^stored: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \(just now\)$", cas("show", "a").stdout, re.M
    )
    assert isinstance(cas.json("show", "a")["stored_ns"], int)
