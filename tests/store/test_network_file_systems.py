"""A store is one machine's: on a file system that others share, it is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.support import ROOT, Cas, make, snapshot


@pytest.fixture
def remote(work: Path) -> Iterator[Path]:
    """A real network file system: sshfs, whose server has `work/disk`."""
    point = work / "remote"
    for path in (work / "disk", point):
        path.mkdir()
    near, far = socket.socketpair()
    with near, far:
        server = subprocess.Popen(
            ["/usr/lib/openssh/sftp-server"], stdin=far.fileno(), stdout=far.fileno()
        )
        command = ["sshfs", f":{work}/disk", str(point), "-f", "-o", "passive"]
        client = subprocess.Popen(command, stdin=near.fileno(), stdout=near.fileno())
    deadline = time.monotonic() + 60
    while not os.path.ismount(point):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield point
    subprocess.run(["umount", point], check=True)
    assert client.wait(60) == server.wait(60) == 0


@pytest.mark.skipif(not ROOT, reason="only root can be sure to mount by FUSE")
def test_store_on_a_network_file_system_is_refused(work: Path, remote: Path) -> None:
    tree = make(work / "tree", {"x": "x"})
    here = Cas(work / "disk/store", work)
    here("put", "a:t:12345678", tree)
    before = snapshot(work / "disk")

    for store in (remote / "store", remote / "new/deep"):
        there = Cas(store, work)
        for command in (("put", "b:t:12345678", tree), ("init",)):
            done = there(*command, code=8)
            assert f"{remote}" in done.stderr
            assert "network file system (fuse.sshfs)" in done.stderr
    there = Cas(remote / "store", work)
    for command in (("ls",), ("verify",), ("rebuild-index",), ("gc",)):
        assert "network file system" in there(*command, code=8).stderr
    assert "network file system" in there("run", "--sysroot", "s=a", "--", "true", code=125).stderr
    assert snapshot(work / "disk") == before

    # Trees and targets may be there.
    here("put", "c:t:12345678", make(remote / "tree", {"y": "y"}))
    here("mount", "remote/target", "c")
    assert snapshot(remote / "target") == snapshot(work / "disk/tree")
    here("umount", "remote/target")
