"""The README tells the truth: its lines run, its table is that of the code, its links lead on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cas.errors import MEANINGS, ExitCode
from tests.support import CAS

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()
DOCUMENTS = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
]


def _blocks(language: str) -> list[str]:
    return list(re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))


def test_lines_of_the_readme_run_as_they_stand(work: Path) -> None:
    done = subprocess.run(
        ["sh", "-euc", "".join(_blocks("sh"))],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert '#define ZLIB_VERSION "1.3"' in done.stdout
    assert "\napp\n" in done.stdout
    assert (work / "build/result").read_text() == "app\n"
    assert not (work / "recipe-sysroot").exists()
    first, second = _blocks("python")
    assert _python(work, first)[1:] == ["include", "lib"] * 2
    assert _python(work, second) == ["include", "lib"]


def _python(work: Path, code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=work, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_exit_codes_of_readme_help_and_code_agree() -> None:
    table = {int(c): m for c, m in re.findall(r"^\| (\d) \| (.*) \|$", README, re.MULTILINE)}
    text = subprocess.run([CAS, "--help"], capture_output=True, text=True, check=True).stdout
    helped = {int(c): m for c, m in re.findall(r"^ +(\d)  (\S.*)$", text, re.MULTILINE)}

    assert table == {code.value: meaning for code, meaning in MEANINGS.items()}
    assert helped == table
    assert set(MEANINGS) == set(ExitCode)


def test_readme_names_the_two_commands_that_exist() -> None:
    for command in ("tools/demo", "tools/test"):
        assert f"sh {command} " in README
        assert os.access(PROJECT / command, os.X_OK)


def test_contributing_tells_of_each_script_of_tools() -> None:
    told = re.findall(
        r"^\| `sh tools/(\w+)` ", (PROJECT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    scripts = [
        path.name
        for path in (PROJECT / "tools").iterdir()
        if path.is_file() and path.read_text().startswith("#!/bin/sh\n")
    ]

    assert sorted(told) == sorted(scripts)
    assert all(os.access(PROJECT / "tools" / name, os.X_OK) for name in scripts)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_documents_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target
