"""Another user's store: readable if permitted, otherwise the missing permission is named."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from cas.errors import CasError
from cas.store import Store
from cli.main import COMMANDS, cas as cas_group
from cli.output.errors import report
from tests.helpers.support import ROOT, Cas, make, snapshot

pytestmark = pytest.mark.skipif(not ROOT, reason="only root can be two users")
OTHER = 4244


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach, with a store of root's, and `own` of OTHER's."""
    made = Path(tempfile.mkdtemp(prefix="cas-tests-"))
    made.chmod(0o755)
    cas = Cas(made / "store", made)
    cas("put", "a:t:12345678", make(made / "tree", {"usr/x": "a", "l@": "usr"}))
    cas("put", "b:t:12345678", make(made / "b", {"usr/x": "b"}))
    cas("pin", "a")
    cas("mount", "mounted", "a", "--strategy", "copy")
    (made / "own").mkdir()
    os.chown(made / "own", OTHER, OTHER)
    yield made
    cas("umount", "mounted")
    shutil.rmtree(made)


def _as_other(place: Path, work: Callable[[], int]) -> tuple[int, str]:
    """Do something as OTHER, without privileges; return the code, and all that was printed.

    In a child, since the interpreter and the tests may be where OTHER may not execute them.
    """
    for name in COMMANDS:
        cas_group.get_command(click.Context(cas_group), name)
    output = place / "output"
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            fd = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            os.setgroups([])
            os.setresgid(OTHER, OTHER, OTHER)
            os.setresuid(OTHER, OTHER, OTHER)
            os.chdir(place / "own")
            with (
                open(fd, "w") as file,
                contextlib.redirect_stdout(file),
                contextlib.redirect_stderr(file),
            ):
                code = work()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, output.read_text()


def _command(place: Path, *words: str) -> tuple[int, str]:
    def run() -> int:
        arguments = ["--store", str(place / "store"), *words]
        try:
            code = cas_group.main(arguments, prog_name="cas", standalone_mode=False)
        except (CasError, OSError, click.ClickException) as error:
            code = report(error)
        return code if isinstance(code, int) else 0

    return _as_other(place, run)


READING = (
    ["ls"],
    ["has", "a:t:12345678"],
    ["show", "a"],
    ["files", "a"],
    ["diff", "a", "b"],
    ["which", "usr/x", "a", "b"],
    ["which", "../mounted/usr/x"],
    ["pins"],
    ["mounts"],
    ["gc", "--dry-run", "--max-age", "0d"],
)


def test_foreign_store_can_be_read(place: Path) -> None:
    before = snapshot(place / "store")
    for words in READING:
        code, output = _command(place, *words)
        assert code == 0, (words, output)
    code, output = _command(place, "which", "usr/x", "a@1", "b")
    assert output.splitlines()[0].startswith("wins   a:t:12345678@1  f")
    assert _verify(place) == (0, "")
    assert snapshot(place / "store") == before


def _verify(place: Path) -> tuple[int, str]:
    def run() -> int:
        with Store(place / "store") as store:
            for finding in store.verify():
                print(finding.kind, finding.path, finding.what)
        return 0

    return _as_other(place, run)


def test_change_of_a_foreign_store_names_the_missing_permission(place: Path) -> None:
    before = snapshot(place / "store")
    store = str(place / "store")
    for words, named in (
        (["put", "c:t:12345678", str(place / "tree")], store),
        (["plan", "x", "a"], store),
        (["mount", "x", "a"], store),
        (["update", str(place / "mounted"), "b"], store),
        (["rm", "b"], f"{store}/index"),
        (["sync"], f"{store}/index"),
        (["pin", "b"], store),
        (["unpin", "a"], f"{store}/pins/a:t:12345678"),
        (["gc"], store),
        (["rebuild-index"], store),
        (["umount", str(place / "mounted")], store),
    ):
        code, output = _command(place, *words)
        assert code == 1, (words, output)
        assert named in output, (words, output)
        assert (
            "no write permission" in output or "ermission denied" in output or "writable" in output
        )
    code, output = _command(place, "run", "--sysroot", "s=a", "--", "true")
    assert (code, "no write permission for the store" in output) == (125, True)
    assert snapshot(place / "store") == before


@pytest.mark.parametrize(
    ("closed", "words", "named"),
    [
        ("", ["ls"], ""),
        ("", ["put", "c:t:12345678", "."], ""),
        ("format", ["ls"], "format"),
        ("lock", ["ls"], "lock"),
        ("lock", ["has", "a:t:12345678"], "lock"),
        ("index", ["ls"], "index/data.mdb"),
        ("index/data.mdb", ["ls"], "index"),
        ("manifests", ["files", "a"], "manifests/"),
        ("manifests", ["diff", "a", "b"], "manifests/"),
        ("leases", ["mounts"], "leases"),
        ("mounts", ["mounts"], "mounts"),
        ("pins", ["pins"], "pins"),
        ("pins", ["show", "a"], "pins"),
        ("known", ["gc", "--dry-run", "--max-age", "0d"], "known"),
    ],
)
def test_missing_permission_is_named_with_its_path(
    place: Path, closed: str, words: list[str], named: str
) -> None:
    path = place / "store" / closed
    mode = path.stat().st_mode & 0o7777
    path.chmod(0o700 if path.is_dir() else 0o600)

    code, output = _command(place, *words)

    path.chmod(mode)
    assert code == 1
    assert "ermission denied" in output
    assert str(place / "store" / named) in output


def test_verify_names_unreadable_files(place: Path) -> None:
    (layer, *_) = sorted((place / "store/layers").iterdir())
    layer.chmod(0o700)

    code, output = _verify(place)

    layer.chmod(0o755)
    assert code == 0
    assert "may not read" in output
    assert layer.name in output
