"""What is installed: three packages and one command."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def test_wheel_holds_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    # Without isolation the build takes the backend that is installed, and needs no network.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
               "--no-index", "-w", str(tmp_path), str(PROJECT)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        commands = archive.read(entry_points).decode()

    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"cas", "mounter", "cli"}
    assert commands.split() == ["[console_scripts]", "cas", "=", "cli.start:main"]
    assert {f"{package}/py.typed" for package in tops} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
