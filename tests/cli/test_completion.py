"""Shell completion of commands, options and stored IDs."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.support import Cas, make

_ZLIB = ("zlib:core2-64:do_populate_sysroot:9f2c41d0", "zlib:do_populate_sysroot:77aa01bc")
_CASES: tuple[tuple[str, set[str]], ...] = (
    ("cas mou", {"mount", "mounts"}),
    ("cas show gli", {"glibc:t:12345678"}),
    ("cas show zli", set(_ZLIB)),
    ("cas mount target zlib:core", {_ZLIB[0]}),
    ("cas rm ", {"glibc", "zlib"}),
    ("cas has nothing", set()),
    ("cas run --sysroot s=gli", {"s=glibc:t:12345678"}),
    ("cas run --sysroot s=zlib:core,gli", {"s=zlib:core,glibc:t:12345678"}),
    ("cas run --sysroot s=glibc,zlib:core", {f"s=glibc,{_ZLIB[0]}"}),
    ("cas ls --js", {"--json"}),
)


@pytest.fixture
def filled(cas: Cas, monkeypatch: pytest.MonkeyPatch, work: Path) -> Path:
    """A directory to work in, with a store that the environment names."""
    for name in (*_ZLIB, "glibc:t:12345678"):
        cas("put", name, make(work / "tree", {}))
    monkeypatch.setenv("CAS_STORE", str(cas.store))
    monkeypatch.setenv("HOME", str(work))
    return work


def _run(directory: Path, *argv: str) -> list[str]:
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(("line", "expected"), _CASES)
def test_bash_completes(line: str, expected: set[str], filled: Path) -> None:
    complete = """
        eval "$(cas completion bash)"
        COMP_LINE=$1 COMP_POINT=${#1}
        _cas_completion cas
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    found = set(_run(filled, "bash", "-c", complete, "bash", line)) - {""}
    before = re.sub("[^:=]*$", "", line.rpartition(" ")[2])
    assert {before + one for one in found} == expected


@pytest.mark.parametrize(("line", "expected"), _CASES)
def test_fish_completes(line: str, expected: set[str], filled: Path) -> None:
    complete = "cas completion fish | source; complete --do-complete $argv[1]"
    found = _run(filled, "fish", "--no-config", "-c", complete, line)
    assert {one.partition("\t")[0] for one in found} == expected


def test_zsh_completes(filled: Path) -> None:
    (filled / ".zshrc").write_text(
        "autoload -Uz compinit; compinit -u; PS1=ready\n"
        'eval "$(cas completion zsh)"; setopt no_beep\n'
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(filled)
        os.execvp("zsh", ["zsh", "-i"])
    try:
        _read_until(terminal, b"ready")
        os.write(terminal, b"cas mount target zlib:core\t")
        _read_until(terminal, _ZLIB[0].removeprefix("zlib:core").encode())
        os.write(terminal, b"\x15cas rm \t\t")
        _read_until(terminal, b"glibc")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def _read_until(terminal: int, text: bytes) -> None:
    read, until = b"", time.monotonic() + 60
    while text not in read:
        assert select.select([terminal], [], [], until - time.monotonic())[0], read
        read += os.read(terminal, 4096)
