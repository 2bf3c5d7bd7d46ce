"""Who may import what, read from the syntax trees; and that the page which draws it is right."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGES = ("cas", "mounter", "cli")
SOURCES = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
FORBIDDEN = {"cas": {"mounter", "cli"}, "mounter": {"cli"}, "cli": set[str]()}
COMMAND = PROJECT / "cas/__main__.py"
"""`python -m cas` is the command, so it is at the top, whatever its name is."""
ONLY_IN = {
    "lmdb": {"cas/index.py"},
    "blake3": {"cas/digest.py"},
    "obstore": {"cas/remote/bucket.py"},
    "cryptography": {"cas/remote/keys.py"},
    "ctypes": {"mounter/syscalls.py", "cli/crashes.py"},
    "click": {f"cli/{path.name}" for path in SOURCES if path.parent.name == "cli"},
}
LONGEST_FILE = 350
LONGEST_FUNCTION = 60
PAGE = (PROJECT / "docs/architecture.md").read_text()


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield what is imported when the code runs, not what is for types alone, by whole names.

    Of `from cas import mounts` that is `cas.mounts`, be it a module or not.
    """
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import does not say from where"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class _Box(NamedTuple):
    """A group of modules on the page, and the lines that its borders are drawn in."""

    name: str
    modules: list[str]
    top: int
    bottom: int


def _boxes() -> Iterator[_Box]:
    """Yield the boxes of the page's drawing, in the order of reading."""
    (drawing,) = re.findall(r"^```text\n(┌.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    lines = drawing.splitlines()
    for top, line in enumerate(lines):
        for found in re.finditer(r"┌─ (\w+): (\w+) ─+┐", line):
            left, right = found.span()
            bottom = next(n for n in range(top, len(lines)) if lines[n][left] == "└")
            words = " ".join(line[left + 1 : right - 1] for line in lines[top + 1 : bottom]).split()
            package, name = found.groups()
            yield _Box(f"{package}: {name}", [_written(w, package) for w in words], top, bottom)


def _written(word: str, package: str) -> str:
    """Return the module that a word in a box of a package stands for."""
    if word == "__init__":
        return package
    return word if word.startswith("cas.") else f"{package}.{word}"


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


BOXES = list(_boxes())
BOX_OF = {module: box for box in BOXES for module in box.modules}
MODULES = {_module(path) for path in SOURCES}


def _package(path: Path) -> str:
    return path.relative_to(PROJECT).parts[0]


def _name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("path", [path for path in SOURCES if path != COMMAND], ids=_name)
def test_packages_depend_only_downwards(path: Path) -> None:
    tops = {module.split(".")[0] for module in _imports(ast.parse(path.read_text()))}

    assert not tops & FORBIDDEN[_package(path)]


def test_each_module_is_in_one_box_of_the_drawing() -> None:
    assert Counter(module for box in BOXES for module in box.modules) == Counter(MODULES)


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_import_stays_in_its_box_or_goes_down_the_drawing(path: Path) -> None:
    box = BOX_OF[_module(path)]
    for name in _imports(ast.parse(path.read_text())):
        module = name if name in MODULES else name.rpartition(".")[0]
        if module in MODULES and module not in box.modules:
            assert BOX_OF[module].top > box.bottom, f"{box.name} imports {module}"


def test_each_box_of_the_drawing_is_explained() -> None:
    explained = re.findall(r"^\| (\w+: \w+) \| .+ \|$", PAGE, re.MULTILINE)

    assert explained == [box.name for box in BOXES]


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_what_a_document_sends_the_reader_to_is_there(document: str) -> None:
    text = (PROJECT / document).read_text()
    places = re.findall(r"`((?:cas|mounter|cli|tests|tools|docs)/[\w./-]*)`", text)
    things = re.findall(r"`([\w.]+)`\s+in\s+`([\w/]+\.py)`", text)

    assert [place for place in places if not (PROJECT / place).exists()] == []
    assert things
    for thing, place in things:
        name = thing.rpartition(".")[2]
        code = (PROJECT / place).read_text()
        assert re.search(rf"^ *((def|class) {name}\b|{name}\b.* = )", code, re.MULTILINE), thing


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_libraries_stay_behind_their_modules(path: Path) -> None:
    tops = {module.split(".")[0] for module in _imports(ast.parse(path.read_text()))}

    for library in tops & ONLY_IN.keys():
        assert _name(path) in ONLY_IN[library], library


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_only_the_command_line_reads_the_environment(path: Path) -> None:
    names = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }

    assert _package(path) == "cli" or not names & {"environ", "environb", "getenv", "expanduser"}


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()

    assert text.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Module)
    nested = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for inner in ast.walk(node)
        if inner is not node
    }
    for node in ast.walk(tree):
        if isinstance(node, kinds) and node not in nested:
            name = getattr(node, "name", "")
            assert name.startswith("_") or ast.get_docstring(node), f"{path}: {name}"


def test_mounter_needs_the_standard_library_only() -> None:
    """In an interpreter that has no site-packages at all."""
    modules = [f"mounter.{path.stem}" for path in SOURCES if path.parent.name == "mounter"]
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import {', '.join(modules)}"

    subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True)
