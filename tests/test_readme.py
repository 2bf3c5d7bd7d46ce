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
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def _block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return str(block)


def test_lines_of_the_readme_run_as_they_stand(work: Path) -> None:
    done = subprocess.run(
        ["sh", "-euc", _block("sh")], cwd=work, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert '#define ZLIB_VERSION "1.3"' in done.stdout
    assert "\napp\n" in done.stdout
    assert not (work / "recipe-sysroot").exists()


def test_python_of_the_readme_runs_as_it_stands(work: Path) -> None:
    (work / "zlib" / "usr" / "include").mkdir(parents=True)

    done = subprocess.run(
        [sys.executable, "-c", _block("python") + "print(code)"],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["include", "0"]


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_documents_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target
