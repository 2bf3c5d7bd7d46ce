"""Linters and types are tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
_TOOLS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
}


@pytest.mark.parametrize("command", _TOOLS.values(), ids=_TOOLS.keys())
def test_tool_finds_nothing(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=PROJECT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["tools/demo", "tools/test", "tools/environment.sh", ".ci/run"])
def test_shell_script_is_posix_shell(script: str) -> None:
    done = subprocess.run(
        ["sh", "-n", PROJECT / script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
