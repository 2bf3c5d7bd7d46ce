"""A full disk: errors that say so, nothing damaged, and a collection that still works."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.support import ROOT, Cas, make, snapshot, sound, tidy

pytestmark = pytest.mark.skipif(not ROOT, reason="only root can mount a disk")

_BLOCK = 4096


@pytest.fixture(params=["ext4", "tmpfs"])
def disk(work: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system, without blocks that only root may use."""
    point = work / "disk"
    point.mkdir()
    if request.param == "ext4":
        image = work / "image"
        with image.open("wb") as file:
            file.truncate(24 << 20)
        make_it = ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "4000", str(image)]
        subprocess.run(make_it, check=True)
        subprocess.run(["mount", "-o", "loop", image, point], check=True)
    else:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "none", point], check=True)
    yield point
    subprocess.run(["umount", point], check=True)


def _leave(disk: Path, blocks: int) -> None:
    """Fill a file system up to `blocks` free blocks."""
    (disk / "filler").unlink(missing_ok=True)
    os.sync()
    free = os.statvfs(disk)
    size = (free.f_bavail * free.f_frsize) - blocks * _BLOCK
    with (disk / "filler").open("wb") as file:
        while size > 0:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                break
            except OSError:  # the file system needs some blocks itself, to say where the others are
                size -= _BLOCK


def test_disk_full_at_any_step_of_put_and_gc_loses_nothing(disk: Path, work: Path) -> None:
    cas = Cas(disk / "store", work)
    cas("put", "kept:t:12345678", make(work / "kept", {"usr/file": "kept", "usr/shared": "s"}))
    cas("pin", "kept")
    files = {f"usr/{n}/file": f"{n}" * 5000 for n in range(6)} | {"usr/shared": "s"}
    tree = make(work / "tree", files)
    before = snapshot(tree)
    outcomes = set()
    blocks = 0
    while 0 not in outcomes:
        _leave(disk, blocks)
        done = subprocess.run(
            ["cas", "--store", cas.store, "put", "a:t:12345678", tree],
            capture_output=True,
            text=True,
            check=False,
        )
        outcomes.add(done.returncode)
        assert "Traceback" not in done.stderr
        if done.returncode != 0:
            assert done.returncode == 1, done.stderr
            # A write that is cut short is an "Input/output error" to LMDB.
            assert (
                "No space left on device" in done.stderr
                or "free space with `cas gc`" in done.stderr
            )
        assert [found for found in cas.json("verify")["findings"] if found["damage"]] == []
        if blocks % 4 == 0:  # on the disk that is full still
            gone = cas.json("gc", "--max-age=0s", "--grace=0s")["removed"]
            assert gone == ([] if done.returncode else ["a:t:12345678"])
        blocks += 1 if blocks < 12 else 3
    assert outcomes == {0, 1}
    assert snapshot(tree) == before
    (disk / "filler").unlink()
    cas("gc", "--max-age=0s", "--grace=0s")
    tidy(cas.store)
    sound(cas.store)
    cas("put", "a:t:12345678", tree)
    assert (disk / "store/reserve").stat().st_blocks * 512 >= 1 << 20


def test_gc_frees_a_full_disk(disk: Path, work: Path) -> None:
    cas = Cas(disk / "store", work)
    tree = make(work / "tree", {"usr/own": ""})
    number = 0
    while number < 120:
        (tree / "usr/own").write_text(f"{number}" * 2000)
        cas("put", f"r{number}:t:12345678", tree)
        number += 1
    _leave(disk, 0)

    done = cas.json("gc", "--max-age=0s", "--grace=0s")

    assert len(done["removed"]) == number
    assert cas.json("ls") == []
    tidy(cas.store)
