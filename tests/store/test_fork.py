"""A process that is forked while a store is in use does no harm to it, nor to its parent."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mounter
from cas.disk.scratch import scratch
from cas.errors import CasError
from cas.gc.policy import Policy
from cas.index.database import NotOwner
from cas.store import Store
from tests.helpers.index import index_of
from tests.helpers.support import Cas, make, snapshot, sound

_POLICY = Policy(max_age_ns=0, grace_ns=0)


class _Child(Exception):
    """The exception with which a forked child leaves its parent's blocks."""


@pytest.fixture
def tree(store: Store, work: Path) -> Path:
    made = make(work / "tree", {"usr/x": "x", "l@": "usr"})
    store.put("a:t:12345678", made)
    return made


def _falls_out(block: Callable[[], None], child: Callable[[], None] = lambda: None) -> None:
    """Run a block that forks by calling `_fork`; its child leaves it as a child does that raises
    or ends, and then does `child`."""
    try:
        block()
    except _Child:
        code = 1
        try:
            child()
            code = 0
        finally:
            os._exit(code)


def _fork() -> None:
    """Fork; in the child raise _Child, in the parent wait until it has ended well."""
    pid = os.fork()
    if pid == 0:
        raise _Child
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _taken(lock: Path) -> bool:
    """Return whether a lock is held."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_forked_child_cannot_use_the_store(store: Store, work: Path, tree: Path, cas: Cas) -> None:
    uses: list[Callable[[], object]] = [
        store.artifacts,
        store.sync,
        lambda: store.put("b:t:12345678", tree),
        lambda: store.find("a:t:12345678"),
        lambda: store.compose(["a"]),
        lambda: store.remove(["a"]),
        lambda: store.pin("a"),
        lambda: store.gc(store.plan_gc(_POLICY)),
        lambda: list(store.verify()),
    ]
    plan = store.plan_gc(_POLICY)
    uses.append(lambda: store.gc(plan))

    def child() -> None:
        for use in uses:
            with pytest.raises(
                NotOwner, match="was opened by the parent of this process"
            ) as caught:
                use()
            assert caught.value.hint is not None
        store.close()
        with Store(store.path) as own:
            assert [str(a.signature) for a in own.artifacts()] == ["a:t:12345678"]
            own.put("c:t:12345678", make(work / "c", {"y": "y"}))

    _falls_out(_fork, child)

    assert len(store.artifacts()) == 2
    store.put("b:t:12345678", tree)
    assert cas("verify").stdout == "no faults found\n"


def test_forked_child_leaving_a_block_releases_nothing(
    store: Store, work: Path, tree: Path, cas: Cas
) -> None:
    def block() -> None:
        with Store(work / "other", create=True) as other:
            other.put("a:t:12345678", tree)
            with other.compose(["a"]) as composition, scratch(other.fd, "test") as own:
                with mounter.mounted(composition, work / "target", mounter.Strategy.COPY):
                    _fork()
                    assert snapshot(work / "target") == snapshot(tree)
                assert os.path.isdir(os.path.join(other.path, own.path))
                assert "in use" in cas("--store", work / "other", "rm", "a", code=7).stderr
                cas("--store", work / "other", "gc", "--max-age", "0d", "--grace", "0d")
                assert os.path.isdir(os.path.join(other.path, own.path))
                assert composition.artifacts == tuple(other.artifacts())
            assert os.listdir(work / "other/leases") == []

    _falls_out(block)

    assert not (work / "target").exists()
    sound(work / "other")


def test_lock_ends_with_its_block_despite_a_child(store: Store, work: Path) -> None:
    for exclusive in (False, True):
        child = 0
        with index_of(store).locked(exclusive=exclusive):
            child = os.fork()
            if child == 0:
                signal.pause()
            assert _taken(work / "store/lock")
        try:
            assert not _taken(work / "store/lock")
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_lock_outlasts_a_child_that_leaves_its_block(store: Store, work: Path, tree: Path) -> None:
    def read() -> None:
        with index_of(store).read() as reader:
            _fork()
            assert _taken(work / "store/lock")
            assert len(reader.records()) == 1

    def write() -> None:
        with index_of(store).write() as writer:
            (artifact,) = writer.of_tree(store_tree)
            writer.delete(artifact.signature)
            _fork()
            assert _taken(work / "store/lock")
            writer.put(artifact)

    store_tree = store.artifacts()[0].tree
    for block in (read, write):
        _falls_out(block)
        assert not _taken(work / "store/lock")
        assert len(store.artifacts()) == 1


def test_forked_child_does_not_commit_a_transaction(store: Store, tree: Path) -> None:
    (artifact,) = store.artifacts()
    writing = index_of(store).write()
    writer = writing.__enter__()
    writer.delete(artifact.signature)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            writing.__exit__(None, None, None)
        except NotOwner:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    writer.put(artifact)
    writing.__exit__(None, None, None)

    assert store.artifacts() == [artifact]


def _work(store: Store, composition: object, results: multiprocessing.Queue[str]) -> None:
    try:
        store.artifacts()
    except CasError as error:
        results.put(error.message)


def test_multiprocessing_worker_keeps_its_parents_lease(store: Store, tree: Path, cas: Cas) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with store.compose(["a"]) as composition:
        worker = context.Process(target=_work, args=(store, composition, results))
        worker.start()
        assert "was opened by the parent" in results.get(timeout=30)
        worker.join()
        assert worker.exitcode == 0
        assert "in use" in cas("rm", "a", code=7).stderr
    results.close()
    cas("rm", "a")


_SCRIPT = """
import os, sys
import cas, mounter
with cas.Store(sys.argv[1]) as store, store.compose(["a"]) as composition:
    with mounter.mounted(composition, "target", mounter.Strategy.COPY):
        pid = os.fork()
        if pid == 0:
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert os.listdir(os.path.join(sys.argv[1], "leases")), "the lease is gone"
        assert os.path.exists("target/usr/x"), "the sysroot is gone"
        store.artifacts()
    code = mounter.run(["cat", "sysroot/usr/x"], {"sysroot": composition})
sys.exit(code)
"""


def test_forked_child_exiting_in_a_block_releases_nothing(work: Path, tree: Path, cas: Cas) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, cas.store], cwd=work, capture_output=True, text=True
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "x", "")
    assert os.listdir(cas.store / "leases") == os.listdir(cas.store / "mounts") == []


def test_store_can_be_closed_twice(store: Store) -> None:
    store.close()
    reused = os.open("/", os.O_RDONLY)
    store.close()

    os.fstat(reused)
    os.close(reused)
