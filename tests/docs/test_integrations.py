"""The examples of docs/integrations.md build, and rebuild only changed parts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.support import CAS, ROOT, Cas, mount_lines, sound

pytestmark = pytest.mark.per_user

TEXT = (Path(__file__).parents[2] / "docs/integrations.md").read_text()
BUILDS = {
    "script": "sh build.sh",
    "make": "make -s run",
    "ninja": "ninja -v && cas run --sysroot sysroot=$(cat greet.id),$(cat app.id) -- "
    "env LD_LIBRARY_PATH=sysroot/usr/lib sysroot/usr/bin/app",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Write the files that the document shows."""
    found = re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert len(found) == 7
    for name, text in found:
        path = tmp_path / "build" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "build"


@pytest.mark.parametrize("build", BUILDS)
def test_example_rebuilds_changes_and_caches_the_rest(place: Path, cas: Cas, build: str) -> None:
    def run() -> str:
        path = f"{os.path.dirname(CAS)}:{os.environ['PATH']}"
        environment = os.environ | {"CAS_STORE": str(cas.store), "PATH": path}
        command = ["sh", "-euc", BUILDS[build]]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]

    def stored() -> set[str]:
        return {one["id"] for one in cas.json("ls")}

    assert run() == "Hello"
    first = stored()
    assert len(first) == 2
    assert run() == "Hello"
    assert stored() == first
    greet = place / "greet/greet.c"
    before = greet.read_text()
    greet.write_text(before.replace("Hello", "Welcome"))
    assert run() == "Welcome"
    second = stored()
    assert len(second) == 4
    greet.write_text(before)  # there and back again
    assert run() == "Hello"
    assert stored() == second
    app = place / "app/app.c"
    app.write_text(f"{app.read_text()}/* */\n")
    assert run() == "Hello"
    assert len(stored()) == 5


PRIVATE = ["unshare", *([] if ROOT else ["--user", "--map-current-user", "--keep-caps"]), "--mount"]
WAYS = {"mounted": PRIVATE, "copied": ["setpriv", "--bounding-set=-sys_admin"] if ROOT else []}


@pytest.mark.parametrize("way", WAYS)
def test_buildroot_package_sees_dependencies_read_only(cas: Cas, work: Path, way: str) -> None:
    project = Path(__file__).parents[2]
    shutil.copy(project / "tests/docs/buildroot.mk", work / "Makefile")

    def build(*arguments: str) -> str:
        command = [*WAYS[way], "make", "-s", "host", f"EXTERNAL={project}/tools/buildroot"]
        environment = os.environ | {"CAS_STORE": str(cas.store)}
        done = subprocess.run(
            [*command, *arguments], cwd=work, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def content(recipe: str) -> dict[str, str]:
        return {one["path"]: one["digest"] for one in cas.json("files", recipe) if "digest" in one}

    said = build("DAMAGE=; echo by app >> $(HOST_DIR)/include/greet.h")
    assert ("/app/host: overlay\n" in said) == (way == "mounted")
    greet = content("greet")
    assert greet.keys() == {"include/greet.h"}
    assert content("app").keys() == {"bin/app", "include/greet.h"}
    assert content("app")["include/greet.h"] != greet["include/greet.h"]
    assert (work / "host/bin/app").read_text() == "Hello\n"
    assert (work / "host/include/greet.h").read_text() == "Hello\nby app\n"
    sound(cas.store)

    (work / "build/all/.stamp_installed").unlink()  # in a new namespace, all is mounted again
    assert "by app" in build()
    for stamp in work.glob("build/*/.stamp_*"):
        stamp.unlink()
    assert "Welcome" in build("WORD=Welcome")
    assert (work / "host/bin/app").read_text() == "Welcome\n"
    assert len([one for one in cas.json("ls") if one["id"].startswith("greet:")]) == 2
    sound(cas.store)
    assert not any(line for line in mount_lines().splitlines() if str(work) in line)
