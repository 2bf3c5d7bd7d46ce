"""The documents are true: their commands run, print the output shown, and have the options named.

`tests/helpers/documents.py` explains the tags of blocks.
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from cas.store import Store
from cli.main import cas as command_line
from tests.helpers import schemas
from tests.helpers.documents import (
    DOCUMENTS,
    PROJECT,
    Block,
    Failed,
    blocks,
    commands,
    executes,
    inline,
    run,
)
from tests.helpers.remotes import ENVIRONMENT, ZLIB, Seaweed
from tests.helpers.support import ROOT, make

pytestmark = pytest.mark.per_user

_IS_THIS = "test_documents.py: test_documented_options_exist"
_COLLECTS = "test_config.py: test_gc_uses_the_limits_of_the_file"
_PUSHES = "docs/sharing.md"
_WEED = (
    "weed server -dir=/srv/weed -s3                        # SeaweedFS, if there is no server yet"
)
_BUILDROOT = (
    "make BR2_EXTERNAL=/path/to/sysroot-cas/tools/buildroot menuconfig"
    "   # and per-package directories"
)
RUN = {"sh", "console", "python"}
DATA: dict[str, Callable[[str], object]] = {"toml": tomllib.loads, "json": json.loads}
SHOWN = {"text", "ini", "c", "make", "ninja"}
COVERED = {
    (
        "README.md",
        "sh tools/demo    # shows the main job, step by step, in a temporary directory",
    ): ("test_readme.py: test_demo_shows_the_main_job_and_leaves_nothing"),
    ("README.md", "pipx install .              # or `pip install .` in a virtual environment"): (
        "test_wheel.py: test_wheel_holds_the_three_packages_and_nothing_else"
    ),
    ("CONTRIBUTING.md", "sh tools/test"): _IS_THIS,
    ("CONTRIBUTING.md", "sh tools/test tests/store/test_gc.py"): _IS_THIS,
    ("CONTRIBUTING.md", "sh tools/test --exhaustive"): _IS_THIS,
    ("CONTRIBUTING.md", "git clone -q . /var/tmp/cas-as-user"): _IS_THIS,
    ("CONTRIBUTING.md", "python3 -m venv /var/tmp/cas-tried"): (
        "test_wheel.py: test_wheel_holds_the_three_packages_and_nothing_else"
    ),
    ("docs/howto.md", "30 3 * * *  cas gc --quiet --store /srv/sysroots"): _COLLECTS,
    ("docs/howto.md", "# /etc/systemd/system/cas-gc.service"): _COLLECTS,
    ("docs/performance.md", "sh tools/bench"): _IS_THIS,
    ("docs/sharing.md", _WEED): "test_push_and_pull.py: test_pushed_artifact_is_pulled_unchanged",
    ("docs/integrations.md", _BUILDROOT): (
        "test_integrations.py: test_buildroot_package_sees_dependencies_read_only"
    ),
}
"""Commands that are only shown: the first line of the block, and what tests them."""
OF_OTHERS = {
    "CONTRIBUTING.md": {"-p", "--exhaustive", "--fault-seed"},
    "docs/comparison.md": {"--reflink"},
    "docs/performance.md": {"--rounds", "--directory", "--charts"},
    "docs/yocto.md": {"-f"},
}
"""Options in the prose of a document that other programs have."""


def _readme(place: Path) -> None:
    """The output of two tasks, and a program that is built with it."""
    make(place / "tmp/zlib/sysroot", {"usr/include/zlib.h": '#define ZLIB "1.3"\n'})
    make(place / "tmp/expat/sysroot", {"usr/include/expat.h": '#define EXPAT "2.6"\n'})
    program = "#include <expat.h>\n#include <stdio.h>\n#include <zlib.h>\nint main(void) {\n"
    said = '"built with zlib " ZLIB " and expat " EXPAT'
    make(place, {"app.c": f"{program}    return puts({said}) < 0;\n}}\n"})


def _zlib(place: Path) -> None:
    make(place / "zlib", {"usr/include/zlib.h": '#define ZLIB "1.3"\n', "usr/lib/": None})


def _json(place: Path) -> None:
    (place / "docs").symlink_to(PROJECT / "docs")


def _sharing(place: Path) -> None:
    for name in ("expat", "atk"):
        make(place / name, {f"usr/include/{name}.h": name})
    make(place, {"deps.txt": "atk:core2-64:do_populate_sysroot:77aa01bc\n", "Makefile": "all:\n"})


def _yocto(place: Path) -> None:
    """The files that a build leaves in TMPDIR and in the store."""
    make(place, {"tmp/cas-ids/zlib": f"{ZLIB}\n"})
    with Store(place / "cas-store", create=True) as store:
        store.put(ZLIB, make(place / "zlib", {"usr/include/zlib.h": ""}))


PREPARED: dict[str, Callable[[Path], None]] = {
    "README.md": _readme,
    "docs/faq.md": _zlib,
    "docs/json.md": _json,
    "docs/reference.md": _zlib,
    "docs/sharing.md": _sharing,
    "docs/yocto.md": _yocto,
}
"""Files and artifacts that exist before the first block of a document runs."""
COMMANDS = schemas.commands()
BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


@pytest.fixture
def place(work: Path) -> Path:
    """The directory in which blocks run, below a home directory."""
    directory = work / "work"
    directory.mkdir()
    return directory


@pytest.fixture
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store for the document that needs one, in the environment."""
    if request.getfixturevalue("document") == _PUSHES:
        seaweed: Seaweed = request.getfixturevalue("seaweed")
        endpoint = f"http://127.0.0.1:{seaweed.port}"
        for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": endpoint}).items():
            monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    "document",
    [
        pytest.param(name, marks=pytest.mark.xdist_group("object store"))
        if name == _PUSHES
        else name
        for name in sorted({block.document for block in BLOCKS if block.tag in RUN})
    ],
)
def test_document_commands_print_what_is_shown(document: str, work: Path, place: Path) -> None:
    if prepare := PREPARED.get(document):
        prepare(place)
    for block in blocks(document):
        others = {"user"} if ROOT else {"root"}
        if not others & set(block.words) and (block.tag in RUN or _is_file(block)):
            run(block, work, place)


def _is_file(block: Block) -> bool:
    return any(word.startswith("file=") for word in block.words)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_block_has_a_known_tag(block: Block) -> None:
    assert block.tag in RUN | SHOWN | DATA.keys()
    assert set(block.words) <= {"root", "user"} or _is_file(block)
    if block.tag in DATA:
        DATA[block.tag](block.text)
    shown = block.tag in SHOWN and not _is_file(block) and executes(block.text)
    assert not shown or (block.document, block.text.split("\n")[0]) in COVERED


def test_covering_test_exists() -> None:
    first = {(block.document, block.text.split("\n")[0]) for block in BLOCKS}
    for place, test in COVERED.items():
        file, name = test.split(": ")
        assert place in first
        (path,) = (PROJECT / "tests").glob(f"*/{file}")
        assert f"\ndef {name}" in path.read_text(), test


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_are_fenced(document: str) -> None:
    """An indented block would have no tag. Text that continues a list item is not a block."""
    text = re.sub(r"^( *)```.*?^\1```$", "```", DOCUMENTS[document].read_text(), flags=re.M | re.S)
    for before, after in itertools.pairwise(text.split("\n\n")):
        in_a_list = re.match(r" *([*-]|\d+\.) ", before) or before.startswith("  ")
        assert in_a_list or not after.startswith("    "), after


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_options_exist(document: str) -> None:
    texts = [block.text for block in blocks(document)] + inline(document)
    for text in texts:
        for words in commands(text):
            mistake = _tool_mistake(words) if words[0] == "sh" else _mistake(words[1:])
            assert mistake is None, (mistake, words)


def test_command_is_run_in_a_document() -> None:
    texts = [block.text for block in BLOCKS if block.tag in RUN]
    ran = {" ".join(words[1:3]) + " " for text in texts for words in commands(text)}

    assert [name for name in COMMANDS if not any(one.startswith(f"{name} ") for one in ran)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_option_in_prose_exists(document: str) -> None:
    known = {option for command in COMMANDS.values() for option in _options(command)}
    for span in inline(document):
        if option := re.match(r"(--?[a-z][a-z-]*)", span):
            assert option[1] in known | OF_OTHERS.get(document, set()), span


def _options(command: click.Command) -> set[str]:
    parameters = command.get_params(click.Context(command))
    return {option for one in parameters for option in (*one.opts, *one.secondary_opts)}


def _mistake(words: list[str]) -> str | None:
    """Return the first of the words after `cas` that no command, or not this one, understands."""
    command: click.Command = command_line
    for word in words:
        if word == "--":
            return None
        if word.startswith("-") and word != "-":
            if word.partition("=")[0] not in _options(command):
                return word
        elif isinstance(command, click.Group) and word not in ("…", "X"):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return word
            command = found
    return None


def _tool_mistake(words: list[str]) -> str | None:
    """Return the first word of `sh tools/…` that names nothing."""
    files = [word for word in words[1:] if word.startswith(("tools/", "tests/"))]
    return next((file for file in files if not (PROJECT / file).exists()), None)


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("sh", "false\n"),
        ("sh", "cas nothing\n"),
        ("python", "import nothing\n"),
        ("console", "$ echo one\ntwo\n"),
        ("console", "$ echo one\n"),
        ("console", "$ true\none\n"),
        ("console", "$ false\n"),
        ("console", "$ false\n$ echo $?\n2\n"),
        ("console", "$ echo 27 bytes\n28 bytes\n"),
        ("console", "one\n$ echo one\n"),
        ("console", "$ if\n"),
        ("console", "$ cas ls nothing\nID  TREE  SIZE\n"),
    ],
)
def test_wrong_block_is_found(tag: str, text: str, work: Path, place: Path) -> None:
    with pytest.raises(Failed):
        run(Block("it", 1, tag, (), text), work, place)


def test_varying_output_is_ignored(work: Path, place: Path) -> None:
    text = (
        "$ printf 'a  1.5 KiB  2026-01-02T03:04:05Z\\nb\\nc\\nd\\n'; pwd\n"
        "a 32.0 KiB   2020-01-01T00:00:00Z\n…\nd\n/home/you/…\n$ false\n$ echo $?\n1\n"
        "$ echo one \\\n> two\none two\n"
    )
    run(Block("it", 1, "console", (), text), work, place)


@pytest.mark.parametrize("words", ["cas ls --jsn", "cas lss", "cas remote has --all", "cas --all"])
def test_wrong_command_is_found(words: str) -> None:
    (found,) = commands(f"x | {words} | y")
    assert _mistake(found[1:]) is not None
