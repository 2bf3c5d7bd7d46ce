"""The README and the other documents: their scripts exist and run, and their links resolve."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.helpers.documents import DOCUMENTS, PROJECT, prose

README = DOCUMENTS["README.md"].read_text()


def test_readme_names_the_two_commands_that_exist() -> None:
    for command in ("tools/demo", "tools/test"):
        assert f"sh {command} " in README
        assert os.access(PROJECT / command, os.X_OK)
    assert set(re.findall(r"^sh (\S+)", README, re.MULTILINE)) == {"tools/demo", "tools/test"}


def test_demo_shows_the_main_job_and_leaves_nothing(tmp_path: pytest.TempPathFactory) -> None:
    done = subprocess.run(
        ["sh", PROJECT / "tools/demo"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("Hello, sysroot!", "Read-only file system", "(exit code 4)", "Welcome, sysroot!"):
        assert said in done.stdout
    assert os.listdir(str(tmp_path)) == []


def test_contributing_lists_every_script() -> None:
    told = re.findall(
        r"^\| `sh tools/(\w+)` ", DOCUMENTS["CONTRIBUTING.md"].read_text(), re.MULTILINE
    )
    scripts = [
        path.name
        for path in (PROJECT / "tools").iterdir()
        if path.is_file() and path.read_text().startswith("#!/bin/sh\n")
    ]

    assert sorted(told) == sorted(scripts)
    assert all(os.access(PROJECT / "tools" / name, os.X_OK) for name in scripts)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_document_links_resolve(document: str) -> None:
    path = DOCUMENTS[document]
    for target in re.findall(r"\]\(([^)]+)\)", prose(document)):
        if re.match(r"https?:", target):
            continue
        file, _, heading = target.partition("#")
        aim = (path.parent / file).resolve() if file else path
        assert aim.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", aim.read_text(), re.MULTILINE)
            assert heading in map(_anchor, headings), target


def _anchor(heading: str) -> str:
    """Return how GitHub names a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_readme_links_every_document() -> None:
    for document in DOCUMENTS:
        assert document == "README.md" or f"]({document})" in README
