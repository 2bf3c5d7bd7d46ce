"""The life of a sysroot: its composition, its use, and its removal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import mounter
from benchmark import casd
from benchmark.assemble import clear, remove_content
from benchmark.bench import Bench
from benchmark.measuring import Contender, Table, command, measure

INCLUDES = (
    "usr/include/x86_64-linux-gnu/qt5",
    "usr/include/x86_64-linux-gnu/qt5/QtCore",
    "usr/include/x86_64-linux-gnu/qt5/QtGui",
    "usr/include/x86_64-linux-gnu/qt5/QtWidgets",
    "usr/include/gtk-3.0",
    "usr/include/pango-1.0",
    "usr/include/cairo",
    "usr/include/gdk-pixbuf-2.0",
    "usr/include/atk-1.0",
    "usr/include/harfbuzz",
    "usr/include/freetype2",
    "usr/include/glib-2.0",
    "usr/lib/x86_64-linux-gnu/glib-2.0/include",
    "usr/include/python3.11",
    "usr/include/eigen3",
)
PROGRAMS = {
    "qt.cc": "#include <QtWidgets>\n#include <boost/algorithm/string.hpp>\n"
    "#include <boost/multi_index_container.hpp>\n#include <boost/spirit/include/qi.hpp>\n",
    "gtk.cc": "#include <gtk/gtk.h>\n#include <openssl/ssl.h>\n#include <Python.h>\n",
    "eigen.cc": "#include <Eigen/Dense>\n#include <nlohmann/json.hpp>\n#include <regex>\n",
}
COMPILED = ("gtk.cc", "eigen.cc")
ABSENT_NAMES = 2000
UNION = "union:do_merge:00000000"
"""The signature of the union of all trees."""


def run(bench: Bench) -> Iterator[Table]:
    """Yield the table of a whole task; the last column is the sum of the others."""
    target, sources = bench.place / "target", bench.place / "sources"
    target.mkdir()
    command("cp", "-al", *_everything(bench), target)
    bench.store.put(UNION, target)
    clear(target)
    bench.warm_up(target)
    bench.store.sync()
    sources.mkdir()
    for name, text in PROGRAMS.items():
        (sources / name).write_text(f"{text}int main() {{ return 0; }}\n")
    with casd.staging(bench.place / "casd", bench.trees) as staging:
        ways = _ways(bench, target)
        ways["buildbox-casd"] = (partial(staging.stage, target), staging.unstage)
        contenders = [
            Contender(name, {"assemble": make, **_uses(sources, target), "take away": away})
            for name, (make, away) in ways.items()
        ]
        rows = measure(contenders, bench.rounds, partial(clear, target))
    for row in rows:
        if not row.failure:
            row.values["sum"] = [sum(each) for each in zip(*row.values.values(), strict=True)]
    bench.store.remove([UNION])
    yield Table("use", f"A task in a sysroot of {len(bench.trees)} trees", bench.file_system, rows)
    target.rmdir()


_Way = tuple[Callable[[], None], Callable[[], None]]


def _ways(bench: Bench, target: Path) -> dict[str, _Way]:
    lower = ":".join(str(tree) for tree in reversed(bench.trees))
    fuse = partial(command, "fuse-overlayfs", "-o", f"ro,lowerdir={lower}", target)
    hardlink = mounter.Strategy.HARDLINK
    return {
        "cp -al": (
            partial(command, "cp", "-al", *_everything(bench), target),
            partial(remove_content, target),
        ),
        "mounter.mount": (partial(bench.mount, target), partial(bench.umount, target)),
        "mounter.mount, all in one layer": (
            partial(_mount_union, bench, target),
            partial(bench.umount, target),
        ),
        "hardlink strategy": (
            partial(bench.mount, target, hardlink),
            partial(bench.umount, target),
        ),
        "fuse-overlayfs": (fuse, partial(command, "umount", target)),
    }


def _everything(bench: Bench) -> list[str]:
    return [f"{tree}/." for tree in bench.trees]


def _mount_union(bench: Bench, target: Path) -> None:
    """Mount the union of all layers, which shows the most that merging could gain."""
    with bench.store.compose([UNION]) as composition:
        mounter.mount(composition, target)


def _uses(sources: Path, target: Path) -> dict[str, Callable[[], None]]:
    """Return the work of a task in its sysroot; the kernel caches its lookups."""
    return {
        "scan of includes": partial(_scan, sources, target),
        "again": partial(_scan, sources, target),
        "compile": partial(_compile, sources, target),
        "absent names": partial(_look_for_absent, target),
        "find": partial(command, "find", target, "-size", "+1000000"),
        "find again": partial(command, "find", target, "-size", "+1000000"),
    }


def _scan(sources: Path, sysroot: Path) -> None:
    """List the headers that each program includes, as a build system does for its dependencies."""
    for name in PROGRAMS:
        command("g++", *options(sysroot), "-M", sources / name)


def _compile(sources: Path, sysroot: Path) -> None:
    for name in COMPILED:
        command("g++", *options(sysroot), "-c", sources / name, "-o", sources / f"{name}.o")


def options(sysroot: Path) -> list[str]:
    """Return the options that point a compiler to a sysroot."""
    return [f"--sysroot={sysroot}", "-fPIC", *(f"-I{sysroot / path}" for path in INCLUDES)]


def _look_for_absent(sysroot: Path) -> None:
    """Look up missing names, as a compiler does in each directory of its search path."""
    directory = os.fspath(sysroot / "usr/include")
    for number in range(ABSENT_NAMES):
        os.access(f"{directory}/absent-{number}.h", os.F_OK)
