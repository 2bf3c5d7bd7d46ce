"""Help: each command has examples that run, and a misspelt name gets a suggestion."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest

from cli.main import cas as command_line
from tests.helpers.remotes import ENVIRONMENT, Seaweed
from tests.helpers.support import CAS, ROOT, Cas, make

_ID = "zlib:core2-64:do_populate_sysroot:9f2c41d0"
_MOUNTED = "cas mount build/recipe-sysroot glibc zlib"
_FIRST = {
    "diff": "cas put zlib:t:77aa01bc glibc",
    "key": "rm farm.key",
    "remote": "cas push s3://artifacts/yocto zlib",
    "pull": "cas push s3://artifacts/yocto zlib; cas push file://$PWD/yocto zlib; cas rm zlib",
    "umount": _MOUNTED,
    "update": _MOUNTED,
    "unpin": "cas pin zlib",
    "which": _MOUNTED,
}
"""Commands to run before the examples of some commands."""
_OF_USERS = {"init", "put", "run", "mount", "umount", "update", "mounts", "which", "doctor"}
"""The commands whose examples make mounts, namespaces or modes."""


def _commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def _examples(command: click.Command) -> list[str]:
    _, mark, last = (command.help or "").rpartition("\b\n")
    return re.split(r"(?<!\\)\n", last.strip()) if mark else []


_COMMANDS = dict(_commands(command_line))


@pytest.fixture
def mirror(work: Path) -> Iterator[str]:
    """A web server for the directory `work`."""
    handler = functools.partial(_Quiet, directory=os.fspath(work))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/yocto"
        server.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def world(cas: Cas, work: Path) -> Path:
    """A directory in which all that examples name is there."""
    sysroot = {"usr/include/zlib.h": "#define ZLIB\n", "usr/bin/app*": "#!/bin/sh\n"}
    make(work / "build/zlib/sysroot", sysroot)
    make(work / "glibc", {"usr/include/stdio.h": "#define STDIO\n"})
    make(
        work / "build",
        {"do_compile*": "#!/bin/sh\ntest -e recipe-sysroot/usr\n", "sstate-cache/": None},
    )
    names = {
        "hello.c": "#include <zlib.h>\nint main(void) { return 0; }\n",
        "Makefile": "all:\n",
        "deps.txt": "glibc\nzlib\n",
    }
    make(work, names | dict.fromkeys(("wanted.txt", "live-signatures.txt"), f"{_ID}\n"))
    for name, tree in (
        (_ID, "build/zlib/sysroot"),
        ("glibc:t:12345678", "glibc"),
        ("openssl:t:12345678", "glibc"),
        ("gtk:t:12345678", "glibc"),
    ):
        cas("put", name, tree)
    cas("key", "generate", "farm.key")
    return work


def _shell(work: Path, lines: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "CAS_STORE": os.fspath(work / "store"),
        "PATH": f"{Path(CAS).parent}:{os.environ['PATH']}",
    }
    return subprocess.run(
        ["bash", "-euc", lines],
        cwd=work,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )


def _uses_a_bucket(name: str, line: str) -> bool:
    return "s3://" in line or "s3://" in _FIRST.get(name.split()[0], "")


def _marks(name: str, line: str) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.per_user] if name in _OF_USERS else []
    if _uses_a_bucket(name, line):
        marks.append(pytest.mark.xdist_group("object store"))
    return marks


@pytest.mark.parametrize(
    "example",
    [
        pytest.param((name, line), marks=_marks(name, line))
        for name, command in _COMMANDS.items()
        for line in _examples(command)
    ],
    ids=lambda pair: pair[1],
)
def test_help_example_runs(
    example: tuple[str, str],
    world: Path,
    mirror: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, line = example
    if _uses_a_bucket(name, line):
        seaweed: Seaweed = request.getfixturevalue("seaweed")
        for variable, value in ENVIRONMENT.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{seaweed.port}")
    for before, after in (
        ("https://mirror.example.com/yocto", mirror),
        ("/srv/", f"{world}/"),
        ("--group builders", f"--group {os.getegid()}"),
    ):
        line = line.replace(before, after)

    first = _shell(world, _FIRST.get(name.split()[0], ""))
    assert first.returncode == 0, first.stderr
    done = _shell(world, line)
    # Only root may mount for all to see, and an upper directory needs an overlay.
    code = 5 if name == "mount" and "--upper" in line and not ROOT else 0
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize("name", _COMMANDS)
def test_command_has_examples_and_a_short_summary(name: str) -> None:
    assert _examples(_COMMANDS[name])
    assert "..." not in _COMMANDS[name].get_short_help_str(59)  # the width that 80 columns leave


def test_misspelt_name_gets_a_suggestion(world: Path) -> None:
    for line, code, hint in (
        ("cas mout", 2, "did you mean mount or umount or mounts?"),
        ("cas show zlb", 3, "did you mean zlib?"),
        ("cas mount target opennsl:t:12345678", 3, "did you mean openssl?"),
        ("cas show zlib:77aa", 3, "list its IDs with `cas ls zlib`"),
        ("cas show entirely-else", 3, "list the stored IDs with `cas ls`"),
    ):
        done = _shell(world, line)
        assert done.returncode == code
        assert hint in done.stderr


@pytest.mark.per_user
def test_python_module_is_the_command(world: Path) -> None:
    for line, code in (("--version", 0), ("--help", 0), ("ls", 0), ("mout", 2), ("show zlb", 3)):
        one, other = _shell(world, f"cas {line}"), _shell(world, f"python -m cas {line}")
        assert one.returncode == other.returncode == code
        assert (one.stdout, one.stderr) == (other.stdout, other.stderr)
