"""Linters and types: the commands of tools/lint and tools/types find nothing."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LINES = [
    line
    for script in ("lint", "types")
    for line in (PROJECT / "tools" / script).read_text().replace("\\\n", " ").splitlines()
]
COMMANDS = [line for line in LINES if line.startswith(("python ", "shellcheck "))]
"""Not the scripts themselves, which could replace the environment that the tests run in."""
SCRIPTS = {
    str(path.relative_to(PROJECT))
    for top in (".ci", "tools")
    for path in (PROJECT / top).rglob("*")
    if path.is_file() and (path.suffix == ".sh" or path.read_bytes().startswith(b"#!/bin/sh\n"))
}


def test_scripts_run_every_linter() -> None:
    tools = {command.removeprefix("python -m ").split()[0] for command in COMMANDS}

    assert tools == {"ruff", "codespell_lib", "shellcheck", "mypy"}


@pytest.mark.parametrize("command", COMMANDS)
def test_linter_finds_nothing(command: str) -> None:
    words = shlex.split(command)
    done = subprocess.run(
        [sys.executable, *words[1:]] if words[0] == "python" else words,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck_reads_every_shell_script() -> None:
    (command,) = (command for command in COMMANDS if command.startswith("shellcheck"))

    assert {word for word in shlex.split(command)[1:] if not word.startswith("-")} == SCRIPTS
