"""Who may import what, read from the syntax trees; and what must not be imported at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that are imported when the code runs, not those for types alone."""
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _package(path: Path) -> str:
    return path.relative_to(PROJECT).parts[0]


def _name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("path", [path for path in SOURCES if path != COMMAND], ids=_name)
def test_packages_depend_only_downwards(path: Path) -> None:
    tops = {module.split(".")[0] for module in _imports(ast.parse(path.read_text()))}

    assert not tops & FORBIDDEN[_package(path)]


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
