"""Linters and types are tests: what tools/lint and tools/types run finds nothing."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
COMMANDS = [
    command
    for script in ("lint", "types")
    for command in re.findall(r"^python (.+)$", (PROJECT / "tools" / script).read_text(), re.M)
]
"""Not the scripts themselves, which could make anew the very environment that the tests run in."""
SCRIPTS = [
    path
    for path in sorted([*(PROJECT / "tools").iterdir(), PROJECT / ".ci/run"])
    if path.is_file() and (path.suffix == ".sh" or path.read_text().startswith("#!/bin/sh\n"))
]


def test_linters_and_types_are_what_the_scripts_run() -> None:
    assert {command.split()[1] for command in COMMANDS} == {"ruff", "mypy"}


@pytest.mark.parametrize("command", COMMANDS)
def test_tool_finds_nothing(command: str) -> None:
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_script_is_posix_shell(script: Path) -> None:
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
