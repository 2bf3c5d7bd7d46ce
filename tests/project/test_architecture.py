"""The folders are the architecture: imports run to lower rooms, as docs/architecture.md lists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = ("cas", "mounter", "cli")
SOURCES = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
PAGE = (PROJECT / "docs/architecture.md").read_text()
BELOW = {"cas": {"cas"}, "mounter": {"cas", "mounter"}, "cli": {"cas", "mounter", "cli"}}
"""The packages that each package may import."""
ENTRY = {"cas.__main__"}
"""`python3 -m cas` is the command, so it may import `cli`."""
STANDARD_LIBRARY_ONLY = {"cas.errors", "cas.system", "cas.model", "cas.disk"}
"""The rooms of `cas` on which `mounter` stands."""
OPTIONAL = {("mounter.plan", "cas.content.digest")}
"""Imported only where its library is installed."""
ONLY_IN = {
    "lmdb": {"cas.index.database"},
    "blake3": {"cas.content.digest"},
    "obstore": {"cas.remote.object_store"},
    "cryptography": {"cas.remote.signing"},
    "ctypes": {"mounter.syscalls", "cli.output.crashes"},
}
NAMED_TUPLE_METHODS = {"_replace", "_asdict", "_fields", "_make"}
LONGEST_FILE = 350
LONGEST_FUNCTION = 60


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_module(path): path for path in SOURCES}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def _imports(module: str) -> frozenset[str]:
    """Return the modules and libraries that a module imports when its code runs.

    `from cas.disk import layout` is `cas.disk.layout` if there is such a module.
    """
    return frozenset(_imported(_tree(module)))


def _imported(tree: ast.Module) -> Iterator[str]:
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
            assert node.module, "a relative import hides the room"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def _room(module: str) -> str:
    """Return the folder or file of its package that a module belongs to; a package is itself."""
    return ".".join(module.split(".")[:2])


def _rooms() -> dict[str, int]:
    """Return the position of each room in the tree of the page."""
    (tree,) = re.findall(r"^```text\n(cas/\n.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    package, rooms = "", list[str]()
    for line in tree.splitlines():
        if not line.startswith(" "):
            package = line.rstrip("/")
        else:
            rooms.append(f"{package}.{line.split()[0].removesuffix('.py').rstrip('/')}")
    return {room: number for number, room in enumerate(rooms)}


ROOMS = _rooms()


def _crossings() -> Iterator[tuple[str, str]]:
    """Yield each import of one of the project's modules by another one."""
    for module in MODULES:
        yield from ((module, name) for name in sorted(_imports(module)) if name in MODULES)


def test_tree_of_the_page_is_the_tree_of_folders() -> None:
    rooms = {_room(module) for module in MODULES} - set(PACKAGES) - ENTRY

    assert set(ROOMS) == rooms


def test_imports_run_to_lower_rooms() -> None:
    upwards = [
        f"{module} imports {name}"
        for module, name in _crossings()
        if module not in ENTRY
        and _room(module) != _room(name)
        and module.split(".")[0] == name.split(".")[0]
        and ROOMS.get(_room(name), -1) >= ROOMS.get(_room(module), -1)
    ]

    assert upwards == []


def test_packages_import_only_packages_below() -> None:
    upwards = [
        f"{module} imports {name}"
        for module, name in _crossings()
        if module not in ENTRY and name.split(".")[0] not in BELOW[module.split(".")[0]]
    ]

    assert upwards == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {module: _imports(module) & MODULES.keys() - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_mounter_stands_on_rooms_that_need_only_the_standard_library() -> None:
    above = [
        f"{module} imports {name}"
        for module, name in _crossings()
        if module.startswith("mounter.")
        and name.startswith("cas.")
        and _room(name) not in STANDARD_LIBRARY_ONLY
        and (module, name) not in OPTIONAL
    ]

    assert above == []


def test_mounter_and_the_rooms_below_it_load_without_installed_packages() -> None:
    rooms = {"mounter", *STANDARD_LIBRARY_ONLY}
    modules = sorted(m for m in MODULES if m.split(".")[0] in rooms or _room(m) in rooms)
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import {', '.join(modules)}"

    subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True)


def test_libraries_stay_behind_their_modules() -> None:
    strays = [
        f"{module} imports {name}"
        for module in MODULES
        for name in _imports(module)
        if module not in ONLY_IN.get(name.split(".")[0], {module})
        or (name.split(".")[0] == "click" and not module.startswith("cli."))
    ]

    assert strays == []


def test_only_the_command_line_reads_the_environment() -> None:
    readers = [
        f"{module}:{node.lineno}"
        for module in MODULES
        if not module.startswith("cli.")
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "environb", "getenv", "expanduser"}
    ]

    assert readers == []


def test_files_and_functions_stay_small() -> None:
    large = [m for m, path in MODULES.items() if path.read_text().count("\n") > LONGEST_FILE]
    long = [
        f"{module}.{node.name}"
        for module in MODULES
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]

    assert (large, long) == ([], [])


def test_public_names_have_docstrings() -> None:
    bare = [
        f"{module}: {getattr(node, 'name', 'module')}"
        for module in MODULES
        for node in _documented(_tree(module))
        if not getattr(node, "name", "").startswith("_") and not ast.get_docstring(node)
    ]

    assert bare == []


def _documented(
    tree: ast.Module | ast.ClassDef,
) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef]:
    """Yield a module or class, and the classes and functions in it, but not those in functions."""
    yield tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _documented(node)
        elif isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_and_names_in_a_document_exist(document: str) -> None:
    text = (PROJECT / document).read_text()
    places = re.findall(r"`((?:cas|mounter|cli|tests|tools|docs)/[\w./-]*)`", text)
    things = re.findall(r"`([\w.]+)`\s+in\s+`([\w/]+\.py)`", text)

    assert [place for place in places if not (PROJECT / place).exists()] == []
    assert things
    for thing, place in things:
        name = thing.rpartition(".")[2]
        code = (PROJECT / place).read_text()
        assert re.search(rf"^ *((def|class) {name}\b|{name}\b.* = )", code, re.MULTILINE), thing


def test_tests_reach_private_names_through_helpers_only() -> None:
    """`tests/helpers` may, and says why."""
    tests = [
        path for path in sorted((PROJECT / "tests").rglob("*.py")) if path.parts[-2] != "helpers"
    ]
    assert not [
        f"{path.relative_to(PROJECT)}:{line}: {name}"
        for path in tests
        for line, name in _private_names(ast.parse(path.read_text()))
    ]


def _private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the private names that a test imports, uses or replaces, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            yield from ((node.lineno, a.name) for a in node.names if a.name.startswith("_"))
        elif isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "os")
            if not own and node.attr not in NAMED_TUPLE_METHODS:
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            (".setattr", ".object")
        ):
            names = (a.value for a in node.args if isinstance(a, ast.Constant))
            yield from ((node.lineno, n) for n in names if isinstance(n, str) and n.startswith("_"))
