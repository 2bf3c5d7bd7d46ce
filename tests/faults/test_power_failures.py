"""Power failures, as an ext4 that is shut down without its log shows them (ioctl_fs_shutdown).

Everything that was not on the disk at that moment is lost, in any order. Then
processes that see another boot ID mount the file system again.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.support import CAS, ROOT, sound, tidy

pytestmark = pytest.mark.skipif(not ROOT, reason="only root can mount a disk")

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2

# Puts trees, and prints the names of those put, and of those synced.
_WRITER = """
import sys
from pathlib import Path
from cas.store import Store
from tests.faults.test_power_failures import tree_of
with Store(sys.argv[1], create=True) as store:
    for number in range(int(sys.argv[3]), 1000):
        store.put(f"r{number}:t:12345678", tree_of(Path(sys.argv[2]), number))
        print("put", number, flush=True)
        if number % 5 == 4:
            store.sync()
            print("synced", number, flush=True)
"""

# In the next boot: every stored artifact is compared with the tree that was put.
_READER = """
import sys
from pathlib import Path
from cas.model.signature import NoSuchSignature
from cas.store import Store
from tests.helpers.support import snapshot
from tests.faults.test_power_failures import tree_of
with Store(sys.argv[1], create=True) as store:
    for artifact in store.artifacts():
        name = str(artifact.signature)
        try:
            store.compose([name]).close()
        except NoSuchSignature:
            continue
        number = int(artifact.signature.recipe[1:])
        expected = snapshot(tree_of(Path(sys.argv[2]), number))
        assert snapshot(store.layer_path(artifact)) == expected, name
        print("there", number)
"""

# An artifact that may have been replaced has its old or its new tree.
_READER_OF_REPLACED = _READER.replace(
    "assert snapshot(store.layer_path(artifact)) == expected, name",
    "assert snapshot(store.layer_path(artifact)) in (expected, snapshot(\n"
    "            tree_of(Path(sys.argv[2]), number + 10))), name",
)


def tree_of(place: Path, number: int) -> Path:
    """Make the tree of a number: some contents of its own, some that others have too."""
    tree = place / str(number)
    (tree / "usr").mkdir(parents=True, exist_ok=True)
    for file in range(4):
        (tree / f"usr/own{file}").write_bytes(b"%d %d" % (number, file) * (10 ** (file + 1)))
    (tree / "usr/shared").write_bytes(b"%d" % (number % 7) * 5000)
    return tree


@pytest.fixture
def disk(work: Path) -> Iterator[Path]:
    """A mounted ext4 of 64 MiB, on an image beside it."""
    image, point = work / "image", work / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    _mount(point)
    (work / "boot").write_text(f"{uuid.uuid4()}\n")
    yield point
    subprocess.run(["umount", point], check=False)


def _mount(disk: Path) -> None:
    """Mount the disk; it commits its journal every second."""
    options = ["-o", "loop,commit=1"]
    subprocess.run(["mount", *options, disk.parent / "image", disk], check=True)


def _lose_power(disk: Path) -> None:
    """Let nothing more be written to the disk, from this moment on."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(fd)


def _boot(disk: Path) -> None:
    """Mount a copy of the disk, since other namespaces may still have the old one mounted."""
    image = disk.parent / "image"
    subprocess.run(["umount", disk], check=True)
    subprocess.run(["cp", "--sparse=always", image, image.with_suffix(".copy")], check=True)
    image.with_suffix(".copy").rename(image)
    _mount(disk)
    (disk.parent / "boot").write_text(f"{uuid.uuid4()}\n")


def _this_boot(work: Path) -> list[str | Path]:
    """Return how to run a command of the machine that `_boot` started last."""
    script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id; exec "$@"'
    return ["unshare", "--mount", "--fork", "--kill-child", "sh", "-euc", script, work / "boot"]


def _run(work: Path, *command: str | Path) -> str:
    done = subprocess.run(
        [*_this_boot(work), *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_power_failure_keeps_synced_artifacts_and_serves_no_damage(disk: Path, work: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    store, trees = disk / "store", work / "trees"
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    begun, lost, there, synced = 0, 0, set[int](), set[int]()
    for _ in range(8):
        with subprocess.Popen(
            [*_this_boot(work), sys.executable, "-c", _WRITER, store, trees, str(begun)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(chance.randrange(1, 9))]
            time.sleep(chance.random() * 0.02)
            _lose_power(disk)
            writer.kill()
            lines += writer.stdout.read().splitlines()
        told = [(what, int(number)) for what, number in map(str.split, lines)]
        for what, last in told:
            if what == "synced":
                synced |= {*there, *range(begun, last + 1)}
        _boot(disk)
        seen = _run(work, sys.executable, "-c", _READER, store, trees)
        there = {int(line.split()[1]) for line in seen.splitlines()}
        assert synced <= there
        begun = max([begun, *there, *(number for _, number in told)]) + 1
        lost += begun - len(there)
    assert lost > 0  # otherwise it was not a power failure
    assert synced
    _run(work, CAS, "--store", str(store), "verify", "--repair")
    _run(work, CAS, "--store", str(store), "gc")
    sound(store)
    tidy(store)


def test_repeated_put_after_a_power_failure_is_whole(disk: Path, work: Path) -> None:
    cas = [CAS, "--store", str(disk / "store")]
    tree = tree_of(work / "trees", 1)
    _run(work, *cas, "put", "r0:t:12345678", tree_of(work / "trees", 8))
    _run(work, *cas, "sync")
    _run(work, *cas, "put", "r1:t:12345678", tree)
    _lose_power(disk)
    _boot(disk)

    _run(work, *cas, "put", "r1:t:12345678", tree)

    names = _run(work, *cas, "ls")
    assert "r0:t:12345678" in names
    assert "r1:t:12345678" in names
    _run(work, *cas, "verify", "r0", "r1")


@pytest.mark.parametrize("seconds", [0, 1.5, 3])
def test_artifact_removed_before_a_power_failure_is_whole_or_missing(
    disk: Path, work: Path, seconds: float
) -> None:
    """The file system has noted some of it by then, and written none of the contents itself."""
    cas = [CAS, "--store", str(disk / "store")]
    for number in range(4):
        _run(work, *cas, "put", f"r{number}:t:12345678", tree_of(work / "trees", number))
    _run(work, *cas, "sync")
    _run(work, *cas, "rm", "r0")
    _run(work, *cas, "put", "--replace", "r1:t:12345678", tree_of(work / "trees", 11))
    _run(work, *cas, "pin", "r2")
    _run(work, *cas, "mount", str(work / "linked"), "r2", "--strategy", "copy")
    _run(work, *cas, "run", "--sysroot", f"{work}/s=r3", "--", "true")
    time.sleep(seconds)
    _lose_power(disk)
    _boot(disk)

    seen = _run(work, sys.executable, "-c", _READER_OF_REPLACED, disk / "store", work / "trees")
    there = {int(line.split()[1]) for line in seen.splitlines()}
    assert {2, 3} <= there
    assert [pin["id"] for pin in json.loads(_run(work, *cas, "pins", "--json"))] == [
        "r2:t:12345678"
    ]
    _run(work, *cas, "umount", str(work / "linked"))
    _run(work, *cas, "put", "--replace", "r1:t:12345678", tree_of(work / "trees", 11))
    _run(work, *cas, "verify", "--repair")
    _run(work, *cas, "gc")
    sound(disk / "store")
    tidy(disk / "store")


@pytest.mark.parametrize("seconds", [0, 3])
def test_mount_record_from_before_a_power_failure_is_stale(
    disk: Path, work: Path, seconds: float
) -> None:
    cas = [CAS, "--store", str(disk / "store")]
    _run(work, *cas, "put", "r1:t:12345678", tree_of(work / "trees", 1))
    _run(work, *cas, "sync")
    _run(work, *cas, "mount", str(work / "target"), "r1")  # in a namespace that ends with it
    time.sleep(seconds)
    _lose_power(disk)
    _boot(disk)
    for record in (disk / "store/mounts").iterdir():
        os.utime(record, (10**9, 10**9))  # the kernel of the tests has not started again

    _run(work, *cas, "mounts")
    _run(work, *cas, "umount", "--all-stale")
    _run(work, *cas, "gc")
    assert list((disk / "store/mounts").iterdir()) == []
    _run(work, *cas, "rm", "r1")
    tidy(disk / "store")
