"""The wheel: three packages, one command, and its manual pages."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cli.main import COMMANDS

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built."""
    tmp_path = tmp_path_factory.mktemp("wheel")
    # Without isolation the build takes the backend that is installed, and needs no network.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
               "--no-index", "-w", str(tmp_path), str(PROJECT)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    return wheel


def test_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        commands = archive.read(entry_points).decode()

    tops = {name.split("/")[0] for name in names if not re.match(r"[^/]*\.(dist-info|data)/", name)}
    assert tops == {"cas", "mounter", "cli"}
    assert commands.split() == ["[console_scripts]", "cas", "=", "cli.start:main"]
    assert {"cli/report_page/page.css", *(f"{package}/py.typed" for package in tops)} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    """`[tool.check-wheel-contents]` in pyproject.toml names the packages to compare with."""
    argv = [sys.executable, "-m", "check_wheel_contents", str(wheel)]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_wheel_has_a_manual_page_for_each_command_that_man_can_show(
    wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        pages = [name for name in archive.namelist() if "/data/share/man/man1/" in name]
        archive.extractall(tmp_path, pages)

    assert {f"cas-{name}.1" for name in COMMANDS} < {Path(page).name for page in pages}
    for page in pages:
        argv = ["mandoc", "-T", "lint", "-W", "warning", page]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        said = [line for line in done.stdout.splitlines() if "missing date" not in line]
        assert said == [], page
    (page,) = (page for page in pages if page.endswith("/cas-run.1"))
    shown = subprocess.run(
        ["mandoc", "-T", "ascii", page], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    text = re.sub(r".\x08", "", shown)
    assert "cas-run - Run CMD with sysroots that only it sees" in text
    assert (
        "cas run --sysroot /work/sysroot=glibc,zlib -- cc --sysroot=/work/sysroot hello.c" in text
    )
