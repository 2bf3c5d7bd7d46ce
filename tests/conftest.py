"""Fixtures of all tests: a store, the command, trees, an object store."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas.store import Store
from tests.helpers.memory import directory_in_memory
from tests.helpers.remotes import ENVIRONMENT, GTK, ZLIB, Proxy, Seaweed, proxy_to
from tests.helpers.sampling import sample_with
from tests.helpers.support import CAS, ROOT, Cas, leftover_mounts, make

_ADMINISTRATORS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""The directories of mkfs.ext4, losetup, nginx and others, which a user's PATH may lack."""

_ROOMS_IN_MEMORY = {"cli", "compose", "faults", "remote"}
"""Rooms whose tests make many small files, and do not depend on the file system."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose how much runs."""
    group = parser.getgroup("sysroot-cas")
    group.addoption(
        "--exhaustive",
        action="store_true",
        help="place a fault in each call of the long enumerations, not in a random third",
    )
    group.addoption(
        "--fault-seed",
        type=int,
        default=random.SystemRandom().randrange(1 << 30),
        help="the seed that draws the random third (default: another one each time)",
    )
    group.addoption(
        "--per-user",
        action="store_true",
        help="run only what can differ for an ordinary user",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Take the signals that tests send, even if `&` or nohup(1) set them to be ignored.

    Programs of administrators are found, too, if PATH lacks their directories.
    """
    # pytest-xdist passes the seed of the main process to its workers.
    sample_with(None if config.option.exhaustive else config.option.fault_seed)
    os.environ["PATH"] = os.pathsep.join(
        dict.fromkeys([*os.environ["PATH"].split(os.pathsep), *_ADMINISTRATORS])
    )
    for number, handler in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the tests marked `per_user`, if asked to; all that root skips have to be marked."""
    kept = [item for item in items if item.get_closest_marker("per_user")]
    others = [item for item in items if not item.get_closest_marker("per_user")]
    if config.option.per_user:
        config.hook.pytest_deselected(items=others)
        items[:] = kept
    elif ROOT:
        nowhere = [
            item.nodeid
            for item in others
            for mark in item.iter_markers("skipif")
            if mark.args[0] and "root" in mark.kwargs["reason"]
        ]
        assert nowhere == [], "neither root nor a user runs them: mark them per_user"


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which kernel features the tests meet; those missing would make tests fail, not skip."""
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    doctor = subprocess.run(
        [CAS, "--store", f"/tmp/cas-tests-no-store-{os.getpid()}", "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )
    third = f"a random third of the faults, of --fault-seed={config.option.fault_seed}"
    return [
        "each fault of each enumeration" if config.option.exhaustive else third,
        f"running as {who}, Python {sys.version.split()[0]}, Linux {os.uname().release}",
        *(f"  {line}" for line in doctor.stdout.splitlines() if not line.startswith("store")),
    ]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the user's own store and settings out of the tests."""
    for name in ("CAS_STORE", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scripts = sysconfig.get_path("scripts")
    monkeypatch.setenv("PATH", f"{scripts}:{os.environ['PATH']}")


@pytest.fixture
def tmp_path(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory; that of some rooms is in memory, unless all faults are to be met."""
    room = request.path.parent.name
    if room not in _ROOMS_IN_MEMORY or request.config.option.exhaustive:
        yield tmp_path
        return
    with directory_in_memory(request.node.name, tmp_path) as directory:
        yield directory


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A directory to work in; mounts that a failed test left there are unmounted."""
    directory = tmp_path / "work"
    directory.mkdir()
    yield directory
    for target in leftover_mounts(directory):
        subprocess.run(["umount", "--lazy", target], check=True)
    for path, names, _ in os.walk(directory):
        for name in names:
            if not os.path.islink(os.path.join(path, name)):
                os.chmod(os.path.join(path, name), 0o755)
    shutil.rmtree(directory)


@pytest.fixture
def store(work: Path) -> Iterator[Store]:
    """An empty open store at `work/store`."""
    with Store(work / "store", create=True) as made:
        yield made


@pytest.fixture
def cas(work: Path) -> Cas:
    """The `cas` command on the store at `work/store`, in the directory `work`."""
    return Cas(work / "store", work)


@pytest.fixture
def there(work: Path) -> Cas:
    """The `cas` command on the store of another machine, as it were."""
    return Cas(work / "there", work)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """An object store."""
    server = Seaweed(tmp_path_factory.mktemp("seaweed"))
    yield server
    server.kill()


@pytest.fixture
def proxy(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the object store; commands go there."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with proxy_to(seaweed.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def trees(work: Path) -> dict[str, Path]:
    """Two trees: with all that a tree can have, and with many files; a large one is in both."""
    large = os.urandom(9 << 20)
    first = make(work / "first", {"usr/include/a.h": "a", "bin/tool*": "#!/bin/sh\n", "l@": "no",
                                  "empty/": None, "nothing": "", "usr/twice*": "a"})  # fmt: skip
    os.rename(first / "usr/include/a.h", os.fsencode(first) + b"/usr/include/\xff\n.h")
    second = make(work / "second", {f"usr/{n // 100}/{n}": "x" * n for n in range(1000)})
    for path in (first / "large", second / "large", second / "executable"):
        path.write_bytes(large)
    (second / "executable").chmod(0o755)
    (second / "incompressible").write_bytes(os.urandom((1 << 18) - 1))
    (second / "barely").write_bytes(os.urandom(1 << 18))
    return {ZLIB: first, GTK: second}
