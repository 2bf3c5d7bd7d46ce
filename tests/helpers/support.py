"""Helpers for tests: the command as a process, trees as data, and an ordinary user."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import pty
import signal
import stat
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mounter
from cas.compose.composition import Composition
from cas.content.digest import hash_bytes
from cas.disk.layout import content_of_object
from cas.store import Store
from tests.helpers import warm

CAS = os.path.join(os.path.dirname(sys.executable), "cas")
ROOT = os.geteuid() == 0
_TIMEOUT_S = 300

Tree = dict[bytes, tuple[Any, ...]]
"""A whole tree as data: path -> kind and content, as `snapshot` gives it."""


@dataclass(frozen=True, slots=True)
class Cas:
    """Runs the `cas` command with a store, in a directory, as a process (of `wrapper`, if any)."""

    store: Path
    directory: Path
    wrapper: tuple[str, ...] = ()

    def __call__(
        self, *arguments: str | bytes | Path, code: int | None = 0, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it; its exit code has to be `code`, if that is any, and no traceback may show.

        Without a wrapper it is forked from a process that has it loaded (warm.py), if it can be.
        """
        command = [*self.wrapper, CAS, "--store", self.store, *arguments]
        if self.wrapper or not warm.can_fork():
            done = subprocess.run(
                command,
                cwd=self.directory,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                input=input,
                timeout=_TIMEOUT_S,
                check=False,
            )
        else:
            given = None if input is None else input.encode("utf-8", "surrogateescape")
            ended, *printed = warm.run(command, self.directory, given, _TIMEOUT_S)
            texts = [data.decode("utf-8", "surrogateescape") for data in printed]
            done = subprocess.CompletedProcess(command, ended, *texts)
        assert "Traceback" not in done.stderr, done.stderr
        expected = done.returncode if code is None else code
        assert done.returncode == expected, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str | bytes | Path, code: int = 0) -> Any:
        """Run the command with --json; return its document, checked against its schema."""
        from tests.helpers.schemas import GROUPS, check

        words = 2 if arguments[0] in GROUPS else 1
        done = self(*arguments[:words], "--json", *arguments[words:], code=code)
        document = json.loads(done.stdout)
        check(" ".join(map(str, arguments[:words])), document)
        return document


def make(root: Path, files: Mapping[str, str | None]) -> Path:
    """Make a tree: a path that ends in "/" is a directory, in "*" an executable file, in "@" a
    symbolic link to the value; others are files with the value as content."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name.rstrip("/*@")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif name.endswith("@"):
            path.symlink_to(content or "")
        else:
            path.write_text(content or "")
            path.chmod(0o755 if name.endswith("*") else 0o644)
    return root


def killed(cas: Cas, *arguments: str, call: str, number: int) -> bool:
    """Kill a command at its `number`th system call of a kind; return whether it got that far."""
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    options = ["-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    command = [CAS, "--store", str(cas.store), *arguments]
    with tempfile.TemporaryFile() as errors:
        if cas.wrapper:
            traced = [*cas.wrapper, "strace", "-f", "-qq", *options, *command]
            done = subprocess.run(
                traced, cwd=cas.directory, stdout=subprocess.DEVNULL, stderr=errors, check=False
            )
            code = done.returncode
        else:
            environment = dict(os.environ)
            with (
                open(os.devnull, "w") as nothing,
                warm.stopped(command, cas.directory, environment, nothing, errors) as process,
            ):
                code = process.go_on_traced(*options)
        errors.seek(0)
        printed = errors.read()
    of_a_child = b"Killed" in printed
    assert code in (0, -signal.SIGKILL, 128 + signal.SIGKILL) or of_a_child, printed
    return code != 0


def snapshot(root: Path | bytes | str) -> Tree:
    """Read a whole tree: kinds, contents (as digests), executable bits and link targets."""
    found: Tree = {}
    base = os.fsencode(root)
    for directory, names, files in os.walk(base):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            key = os.path.relpath(path, base)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                found[key] = ("symlink", os.readlink(path))
            elif stat.S_ISDIR(mode):
                found[key] = ("directory",)
            else:
                with open(path, "rb") as file:
                    found[key] = ("file", bool(mode & 0o111), hash_bytes(file.read()))
    return found


def shown_on_terminal(
    cas: Cas,
    *arguments: str | Path,
    delay_s: float = 0,
    columns: int = 200,
    code: int = 0,
    variables: Mapping[str, str] | None = None,
    program: Sequence[str] = (),
) -> str:
    """Run a command with a terminal as its standard error; return the text shown there.

    Progress is shown at each step after `delay_s`. `program` replaces the command.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    eager = (
        f"import cli.output.progress as p; p.DELAY_S, p.PAUSE_S = {delay_s}, 0; "
        "import cli.start as s; s.main()"
    )
    shown = b""
    with subprocess.Popen(
        [*(program or (sys.executable, "-P", "-c", eager)), "--store", str(cas.store), *arguments],
        cwd=cas.directory,
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", **(variables or {})},
    ) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: that is all, which comes in pieces
            while data := os.read(ours, 10_000):
                shown += data
    os.close(ours)
    assert process.returncode == code, shown
    return shown.decode()


def sound(store: Path) -> None:
    """Assert that every artifact of a store is whole, and that nothing partial lies about."""
    with Store(store) as opened:
        assert list(opened.verify()) == []
    assert os.listdir(store / "tmp") == []


def tidy(store: Path) -> None:
    """Assert that all that a store has on disk is explained by its artifacts."""
    with Store(store) as opened:
        artifacts = opened.artifacts()
        trees = {artifact.tree for artifact in artifacts}
        contents = {
            entry.digest.encode() + (b".x" if entry.executable else b"")
            for artifact in artifacts
            for entry in opened.manifest(artifact)
            if entry.digest
        }
    assert set(os.listdir(store / "layers")) == set(os.listdir(store / "manifests")) == trees
    objects = os.path.join(os.fsencode(store), b"objects")
    assert {content_of_object(os.path.relpath(p, objects)) for p in objects_of(store)} == contents
    assert all(os.stat(path).st_nlink > 1 for path in objects_of(store))
    links = {f"{path.parent.name}:{path.name}" for path in (store / "artifacts").glob("*/*")}
    assert links == {str(artifact.signature) for artifact in artifacts}
    assert {path.name for path in (store / "artifacts").iterdir()} == {
        artifact.signature.recipe for artifact in artifacts
    }
    for name in ("tmp", "leases", "mounts"):
        assert os.listdir(store / name) == []


def is_estimate(estimated: int, measured: int, layers: int) -> bool:
    """Return whether a size (bytes) is right up to the estimated parts of a number of layers.

    Contents are counted exactly. The tests' small layers have at most eight blocks of directories,
    manifests and small files of the store.
    """
    return abs(estimated - measured) <= layers * 8 * 4096


def disk_of(path: Path) -> int:
    """Return the disk space of a directory in bytes, as du(1) reports it.

    Excludes the index, which grows with deletions and never shrinks, and the log, which always
    grows.
    """
    command = ["du", "-s", "-B1", "--exclude=data.mdb", "--exclude=log", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[0])


def mount_lines() -> str:
    """Return /proc/self/mountinfo; names that are not UTF-8 are replaced."""
    return Path("/proc/self/mountinfo").read_text(errors="replace")


def leftover_mounts(directory: Path) -> list[bytes]:
    """Return the mount points below a directory, innermost first."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = [line.split()[4].decode("unicode_escape").encode("latin-1") for line in file]
    inside = [point for point in points if point.startswith(os.fsencode(directory) + b"/")]
    return sorted(inside, reverse=True)


def objects_of(store: Path | bytes) -> list[bytes]:
    """Return the paths of all objects in a store."""
    base = os.path.join(os.fsencode(store), b"objects")
    return [os.path.join(path, name) for path, _, files in os.walk(base) for name in files]


def seen_in_run(composition: Composition, place: Path, *, writable: bool = False) -> Tree:
    """Read a composition as a command in `mounter.run` sees it: by overlay, for any user."""
    code = (
        "import pickle, sys; from tests.helpers.support import snapshot\n"
        "pickle.dump(snapshot(sys.argv[1]), open(sys.argv[2], 'wb'))"
    )
    notes: list[str] = []
    place.mkdir(exist_ok=True)
    project = Path(__file__).parents[2]
    command: list[str | Path] = [sys.executable, "-c", code, place / "target", place / "result"]
    command[:0] = ["env", f"PYTHONPATH={project}"]
    sysroots = {place / "target": composition}
    assert mounter.run(command, sysroots, notes.append, writable=writable) == 0
    assert notes == []
    with (place / "result").open("rb") as file:
        found: Tree = pickle.load(file)
    return found
