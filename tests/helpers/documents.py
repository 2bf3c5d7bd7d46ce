"""Documents as data: their blocks, and the commands in them with their output.

In a block with the tag `console`, lines that begin with `$ ` are commands, `> ` continues one, and
all other lines are output. There `…` matches any text in a line, and any lines if it stands alone;
a time, or a size of a KiB or more, matches any other; blanks match any number of blanks. The home
directory is /home/you.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[2]
DOCUMENTS = {
    path.relative_to(PROJECT).as_posix(): path
    for path in (
        *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md")),
        *sorted((PROJECT / "docs").glob("*.md")),
    )
}
HOME = "/home/you"
"""The home directory in documents, which the tests replace."""
_FENCE = re.compile(r"^( *)```(\S*)(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)
_COMMAND = re.compile(r"(?:^|(?<=[\s|;&(`/]))(cas|sh tools/\w+)(?= |$)", re.MULTILINE)
_EXECUTED = re.compile(r"^(?:\$ )?(?:\w+=\S* )*cas |[|;&(*/] *cas |\bsh tools/\w+", re.MULTILINE)
_ENDS = "|&;()<>"
_MARK = "@@ended-with-"
_VARYING = [
    (re.compile(r"just now|\d+ (?:minute|hour|day)s? ago"), r"(?:just now|\d+ \w+ ago)"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    (re.compile(r"\d{4}-\d\d-\d\d"), r"\d{4}-\d\d-\d\d"),
    (re.compile(r"\d+\.\d (?:Ki|Mi|Gi)B"), r"(?:\d+\.\d (?:Ki|Mi|Gi)B|\d+ bytes)"),
    (re.compile(r"…"), r".*?"),
    (re.compile(r" +"), r" +"),
]


class Block(NamedTuple):
    """A fenced block: where it is, its tag, the words after that, and its lines."""

    document: str
    line: int
    tag: str
    words: tuple[str, ...]
    text: str

    @property
    def place(self) -> str:
        """Its place for messages."""
        return f"{self.document}:{self.line}"


class Failed(AssertionError):
    """A block that does not behave as its document says."""


def blocks(document: str) -> Iterator[Block]:
    """Yield the fenced blocks of a document, those in lists without their indentation."""
    text = DOCUMENTS[document].read_text()
    for found in _FENCE.finditer(text):
        indent, tag, words, lines = found.groups()
        inner = re.sub(rf"^{indent}", "", lines, flags=re.MULTILINE)
        line = text.count("\n", 0, found.start()) + 1
        yield Block(document, line, tag, tuple(words.split()), inner)


def prose(document: str) -> str:
    """Return a document without its fenced blocks."""
    return _FENCE.sub("", DOCUMENTS[document].read_text())


def inline(document: str) -> list[str]:
    """Return the texts between backquotes in a document's prose, each on one line."""
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(document))
    return [re.sub(r"\s+", " ", span) for span in spans]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each `cas …` and `sh tools/…` in lines of shell, up to where it ends."""
    joined = re.sub(r"\\\n *", "", re.sub(r"(?m)^[$>] ", "", text))
    for found in _COMMAND.finditer(joined):
        line = re.split(r"\n|  |`", joined[found.end() :].lstrip(" "))[0]
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command = found[1].split()
        with contextlib.suppress(
            ValueError
        ):  # a quote that another line closes: the words before it
            for word in words:
                if word[0] in _ENDS:
                    break
                command.append(word)
        yield command


def executes(text: str) -> bool:
    """Return whether a line of a block runs `cas …` or `sh tools/…`."""
    return _EXECUTED.search(text) is not None


def run(block: Block, home: Path, place: Path) -> None:
    """Run a block in the directory `place`, below `home`."""
    if name := next((word[5:] for word in block.words if word.startswith("file=")), None):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    elif block.tag == "console":
        _run_console(block, home, place)
    else:
        program = {"sh": ["sh", "-euc"], "python": [sys.executable, "-c"]}[block.tag]
        done = _process([*program, block.text], home, place)
        if done.returncode:
            raise Failed(f"{block.place} ends with {done.returncode}:\n{done.stdout}")


def _process(command: list[str], home: Path, place: Path) -> subprocess.CompletedProcess[str]:
    without = {"XDG_CACHE_HOME", "CAS_STORE"}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    return subprocess.run(
        command,
        cwd=place,
        env=environment | {"HOME": str(home), "PWD": str(place), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
        timeout=300,
        check=False,
    )


def _run_console(block: Block, home: Path, place: Path) -> None:
    """Run the commands one after the other in one shell; compare their output.

    A command that fails must be followed by `$ echo $?`.
    """
    pairs = _session(block)
    script = "".join(
        f"{{ {command}\n}}\nr=$?; printf '{_MARK}%s\\n' $r; (exit $r)\n" for command, _ in pairs
    )
    done = _process(["sh", "-uc", script], home, place)
    parts = re.split(rf"{_MARK}(\d+)\n", done.stdout)
    if len(parts) != 2 * len(pairs) + 1:
        raise Failed(f"{block.place} is no session of a shell:\n{done.stdout}")
    for number, (command, wanted) in enumerate(pairs):
        printed, code = parts[2 * number], int(parts[2 * number + 1])
        if not matches(wanted, printed.replace(str(home), HOME)):
            raise Failed(f"{block.place}: $ {command}\nprints\n{printed}and not\n{wanted}")
        told = number + 1 < len(pairs) and pairs[number + 1][0] == "echo $?"
        if code and not told:
            raise Failed(f"{block.place}: $ {command}\nends with {code}, which is not shown")


def _session(block: Block) -> list[tuple[str, str]]:
    """Return the commands of a block, each with the output that is shown."""
    pairs: list[tuple[str, str]] = []
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ "):
            pairs.append((line[2:].rstrip("\n"), ""))
        elif not pairs:
            raise Failed(f"{block.place} begins with what no command prints")
        elif line.startswith("> ") and not pairs[-1][1]:
            pairs[-1] = (f"{pairs[-1][0]}\n{line[2:]}".rstrip("\n"), "")
        else:
            pairs[-1] = (pairs[-1][0], pairs[-1][1] + line)
    return pairs


def matches(shown: str, printed: str) -> bool:
    """Return whether the output of a command matches a document."""
    pattern = ""
    for line in shown.splitlines():
        pattern += r"(?:.*\n)*?" if line == "…" else rf"{_pattern(line.rstrip())} *\n"
    return re.fullmatch(pattern, printed) is not None


def _pattern(line: str) -> str:
    """Return a line as a regular expression."""
    for varying, by in _VARYING:
        if found := varying.search(line):
            before, after = line[: found.start()], line[found.end() :]
            return _pattern(before) + by + _pattern(after)
    return re.escape(line)
