"""Hostile files of the store, plans and lists: refused or harmless.

Every reader returns a sound value or raises its own error, at once. `CAS_TEST_FUZZ` is the number
of examples for each reader; `corpus/` has inputs that found a fault.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from cas.compose.cache import CompositionCache, MergedLayer
from cas.compose.dependencies import parse_dependencies
from cas.content.digest import hash_bytes
from cas.disk import mount_records
from cas.disk.boot import boot_id, contents_since_ns
from cas.disk.counters import Counts, add_counts, read_counts
from cas.disk.layout import DIRECTORIES
from cas.disk.leases import Lease, lease_uses, oldest_put_ns, read_lease
from cas.disk.log import read_log
from cas.disk.pins import Pins
from cas.errors import CasError, ExitCode, InputRefused, StoreDamaged
from cas.index.format import check_format
from cas.model.artifact import Artifact, Dropped, IndexRecord
from cas.model.manifest import MAGIC, BadManifest, Digest, Manifest, is_digest
from cas.model.signature import Signature
from cas.store import Store
from cas.system.files import seal
from cli.main import cas as cas_group
from cli.output.errors import report
from mounter import Plan
from mounter.listing import all_mounts
from tests.helpers.hostile import FUZZ, TEXTS, like
from tests.helpers.index import change_record
from tests.helpers.support import Cas, make, snapshot

CORPUS = Path(__file__).parent / "corpus"
SIGNATURE = Signature.parse("a:t:12345678")
T, U = Digest("1" * 64), Digest("2" * 64)
_MANIFEST = Manifest.of(
    {b"d": b"d", b"d/f": b"f 3 " + T.encode(), b"d/x": b"x 0 " + U.encode(), b"l": b"l ../d"}
).encode()
_ARTIFACT = Artifact(
    signature=SIGNATURE, tree=T, files=1, directories=2, symlinks=0, size=3,
    created_ns=1, boot_id="5e0f", dropped=Dropped(0, 0, 1),
)  # fmt: skip
_PLAN = {
    "version": 1, "store": "/s", "target": "/t", "strategy": "copy", "reasons": ["overlay: no"],
    "writable": False, "upper": None, "artifacts": [{"id": "a:t:12345678", "tree": T}],
    "layers": [f"/s/layers/{T}"], "entries": 3,
}  # fmt: skip
_EVENT = {
    "time_ns": 1, "kind": "put", "uid": 0, "id": "a:t:12345678", "tree": T, "bytes": 1, "what": "x",
}  # fmt: skip
_LEASE = {
    "trees": [T], "artifacts": [["a:t:12345678", T]], "purpose": "run", "pid": 1, "uid": 0,
    "since_ns": 1,
}  # fmt: skip
_MOUNT = {
    "target": "/t", "strategy": "copy", "created": ["/t"], "mode": 0o755, "uid": 0, "gid": 0,
    "staging": "/.t.cas-0123456789abcdef", "boot_id": "b", "namespace": 1, "sources": ["cas-0"],
    "since_ns": 1, "by_uid": 0, "by_pid": 1, "upper": None,
}  # fmt: skip


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _lines(*documents: object) -> bytes:
    return b"".join(_json(document) + b"\n" for document in documents)


def _read_manifest(data: bytes, work: Path) -> None:
    manifest = Manifest.decode(data)
    assert manifest.encode() == data
    for entry in manifest:
        assert not set(entry.path.split(b"/")) & {b"", b".", b".."}
        assert entry.size < 1 << 63


def _read_artifact(data: bytes, work: Path) -> None:
    checksum = zlib.crc32(data, zlib.crc32(str(SIGNATURE).encode()))
    artifact = IndexRecord(str(SIGNATURE), struct.pack("<I", checksum) + data).artifact()
    assert is_digest(artifact.tree)
    assert max(artifact.size, artifact.created_ns) < 1 << 63


def _read_plan(data: bytes, work: Path) -> None:
    plan = Plan.load(data)
    assert Plan.decode(plan.encode()) == plan
    assert all(map(is_digest, plan.used))
    assert os.path.normpath(plan.target) == plan.target


def _read_dependencies(data: bytes, work: Path) -> None:
    for name in parse_dependencies(data.decode(errors="surrogateescape")):
        assert os.fsencode(name) is not None


def _read_lease(data: bytes, work: Path) -> None:
    path = work / "leases/1-0123456789abcdef"
    path.write_bytes(seal(data))
    with path.open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        record = read_lease(os.fsencode(work), path.name)
        assert record is not None
        assert all(isinstance(tree, str) for tree in record.trees)
        assert oldest_put_ns(os.fsencode(work)) > 0 or not record.trees
        list(lease_uses(os.fsencode(work)))
        list(all_mounts(os.fsencode(work)))


def _read_pin(data: bytes, work: Path) -> None:
    (work / "pins" / str(SIGNATURE)).write_bytes(seal(data))
    (pin,) = Pins(os.fsencode(work)).all()
    assert (pin.signature, type(pin.reason), type(pin.since_ns)) == (SIGNATURE, str, int)


def _read_mount(data: bytes, work: Path) -> None:
    store = os.fsencode(work)
    Path(os.fsdecode(mount_records.record_path(store, b"/t"))).write_bytes(seal(data))
    record = mount_records.read_record(store, b"/t")
    assert record is not None
    assert record.target == "/t"
    assert set(record.created) <= {"/", "/t"}
    assert record.staging is None or os.path.dirname(record.staging) == "/"
    for plan in mount_records.plan_documents(store, record):
        assert all(is_digest(artifact["tree"]) for artifact in plan["artifacts"])
    list(mount_records.mount_uses(store))
    list(all_mounts(store))


def _read_overlaps(data: bytes, work: Path) -> None:
    known = CompositionCache(os.fsencode(work))
    known.store_overlaps(U, [T, U], [])
    (path,) = (work / "known").iterdir()
    path.write_bytes(seal(data))
    for overlap in known.overlaps(U, 2) or []:
        assert isinstance(overlap.path, bytes)
        assert [T, U][overlap.winner] == U
        assert [[T, U][number] for number in overlap.hidden] == [T]
    known.prune_overlaps([T, U], 0)
    known.prune_overlaps([T], 0)


def _read_merged(data: bytes, work: Path) -> None:
    known = CompositionCache(os.fsencode(work))
    known.store_merged(MergedLayer(T, (T, U), "boot"))
    (path,) = (work / "known").glob("merged-*")
    path.write_bytes(seal(data))
    for merged in (known.merged([T, U]), *known.iter_merged()):
        if merged is not None:
            assert is_digest(merged.tree)
            assert merged.parts == (T, U)


def _read_boot(data: bytes, work: Path) -> None:
    (work / "boot").write_bytes(seal(data))
    assert contents_since_ns(os.fsencode(work)) >= 0


def _read_log(data: bytes, work: Path) -> None:
    (work / "log").mkdir(exist_ok=True)
    (work / "log/2026-11").write_bytes(data)
    for found in read_log(os.fsencode(work)):
        assert (type(found.kind), type(found.what), type(found.bytes)) == (str, str, int)
        assert found.time_ns >= 0


def _read_counts(data: bytes, work: Path) -> None:
    (work / "counts").write_bytes(data)
    for counts in read_counts(os.fsencode(work)).values():
        assert all(number >= 0 for number in counts)
    add_counts(os.fsencode(work), Counts(1, 1, 1, 1, 1, 1))


def _read_format(data: bytes, work: Path) -> None:
    for name in DIRECTORIES:
        (work / name).mkdir(exist_ok=True)
    (work / "lock").touch()
    (work / "format").write_bytes(data)
    check_format(os.fsencode(work))


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader of files like `good`; it may raise only `refused`."""

    read: Callable[[bytes, Path], None]
    good: bytes
    refused: type[CasError] | tuple[type[CasError], ...] = ()


READERS = {
    "manifest": Reader(_read_manifest, _MANIFEST, BadManifest),
    "artifact": Reader(_read_artifact, _ARTIFACT.record().data[4:], StoreDamaged),
    "plan": Reader(_read_plan, _json(_PLAN), InputRefused),
    "dependencies": Reader(
        _read_dependencies, _json(["zlib", {"id": "app", "priority": 1}]), InputRefused
    ),
    "lease": Reader(_read_lease, _json(_LEASE), StoreDamaged),
    "pin": Reader(
        _read_pin,
        _json({"signature": "a:t:12345678", "reason": "x", "since_ns": 1, "uid": 0}),
        StoreDamaged,
    ),
    "mount": Reader(_read_mount, _lines(_MOUNT, _PLAN, _PLAN), StoreDamaged),
    "overlaps": Reader(_read_overlaps, _json([[T[:12], U[:12]], ["d/f", 1, [0], False]])),
    "merged": Reader(_read_merged, _json(["boot", T, T, U])),
    "boot": Reader(_read_boot, _json([boot_id(), 5])),
    "log": Reader(_read_log, _json(_EVENT)),
    "counts": Reader(_read_counts, bytes(range(192))),
    "format": Reader(_read_format, b"sysroot-cas store 1\n", StoreDamaged),
}
_FOUND = sorted(CORPUS.iterdir())


def _check(reader: Reader, data: bytes, work: Path) -> bool:
    """Return whether the reader accepts the file."""
    for name in ("leases", "pins", "mounts", "known", "objects", "tmp"):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir()
    try:
        reader.read(data, work)
    except reader.refused:
        return False
    return True


@pytest.mark.parametrize("name", READERS)
def test_valid_file_is_accepted(name: str, work: Path) -> None:
    assert _check(READERS[name], READERS[name].good, work)


@pytest.mark.parametrize("name", READERS)
def test_hostile_file_is_refused_or_harmless(name: str, work: Path) -> None:
    reader = READERS[name]

    @settings(max_examples=FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
    @given(like(reader.good))
    def fuzz(data: bytes) -> None:
        _check(reader, data, work)

    fuzz()
    for data in TEXTS.values():
        _check(reader, data, work)


@pytest.mark.parametrize("path", _FOUND, ids=lambda path: path.name)
def test_corpus_file_is_refused_or_harmless(path: Path, work: Path) -> None:
    reader = READERS[path.name.partition("-")[0]]

    assert not _check(reader, path.read_bytes(), work) or reader.refused == ()


def _fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path, outside: Path) -> None:
    make(path, {"x": "x"})


def _socket(path: Path, outside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(f"./{path.name}")  # a socket's path may have 107 bytes


def _link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "file")


def _link_to_directory(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def _loop(path: Path, outside: Path) -> None:
    path.symlink_to(path)


def _closed(path: Path, outside: Path) -> None:
    path.touch()
    path.chmod(0)


def _nothing(path: Path, outside: Path) -> None:
    pass


_Harm = Callable[[Path, Path], None]
_KINDS: tuple[_Harm, ...] = (
    _fifo,
    _directory,
    _socket,
    _link,
    _link_to_directory,
    _loop,
    _closed,
    _nothing,
)
_FILES = ("format", "boot", "pins/*", "mounts/*", "known/*", "leases/*", "manifests/*")
_PLACES = (
    *_FILES, "lock", "reserve", "index/data.mdb", "index", "pins", "mounts", "known", "leases",
    "manifests", "layers", "layers/*", "objects", "objects/??/*", "artifacts", "artifacts/a",
    "artifacts/a/*", "tmp", "empty", "empty/1", "quarantine",
)  # fmt: skip
_COMMANDS = (
    "ls", "has a:t:12345678", "show a", "files a", "diff a b", "which usr/x a b",
    "which mounted/usr/x", "pins", "mounts", "verify --quick", "verify",
    "plan target a b --strategy copy",
    "mount target a b --strategy copy", "update target --drop b", "umount target",
    "umount --all-stale", "pin b", "unpin a", "gc --max-age 0d --grace 0d", "umount mounted",
    "put c:t:12345678 tree", "sync", "rm --force a b", "verify --repair", "gc", "rebuild-index",
    "ls",
)  # fmt: skip
_CODES = {*ExitCode} - {ExitCode.USAGE}


@pytest.fixture
def good(store: Store, cas: Cas, work: Path) -> Path:
    """A store with every kind of file; one artifact is mounted at `mounted`."""
    store.put("a:t:12345678", make(work / "tree", {"usr/x": "a", "usr/y*": "y", "l@": "usr"}))
    store.put("b:t:12345678", make(work / "b", {"usr/x": "b"}))
    store.pin("a", "reason")
    store.sync()
    make(work / "outside", {"file": "untouched", "dir/": None, "1-0123456789abcdef": "not a lease"})
    cas("mount", "mounted", "a", "b", "--strategy", "copy")
    subprocess.run(["cp", "-a", work / "store", work / "good"], check=True)
    (work / "mounted").rename(work / "good-mounted")
    return work / "good"


def _command(words: str, work: Path) -> int:
    """Run a command in this process, as `cli.main.main` does; all else it raises is a traceback."""
    arguments = ["--store", "harmed", *words.split()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(work))
        output = io.TextIOWrapper(io.BytesIO(), "utf-8")
        stack.enter_context(contextlib.redirect_stdout(output))
        errors = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
        stack.enter_context(contextlib.redirect_stderr(errors))
        try:
            code = cas_group.main(arguments, prog_name="cas", standalone_mode=False)
        except (CasError, OSError, click.ClickException) as error:
            code = report(error)
    return code if isinstance(code, int) else 0


@contextlib.contextmanager
def _in_time(what: str) -> Iterator[None]:
    """Fail if the block waits for something that never comes."""

    def fail(number: int, frame: object) -> None:
        raise AssertionError(f"{what!r} does not end")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _harm(store: Path, place: str, change: bytes | _Harm) -> None:
    """Give a file of the store other bytes, or put something else in its place."""
    path = next(iter(sorted(store.glob(place))))
    if isinstance(change, bytes):
        path.chmod(0o644)
        path.write_bytes(change)
        return
    if path.is_dir() and not path.is_symlink():
        path.rename(store.parent / "aside")
    else:
        path.unlink()
    change(path, store.parent / "outside")


def _survive(work: Path, place: str, change: bytes | _Harm) -> None:
    """Run every command on a damaged store; files outside the store stay unchanged."""
    for name in ("harmed", "mounted", "target", "aside"):
        subprocess.run(["chmod", "-R", "u+rwX", work / name], check=False, capture_output=True)
        shutil.rmtree(work / name, ignore_errors=True)
    subprocess.run(["cp", "-a", work / "good", work / "harmed"], check=True)
    subprocess.run(["cp", "-a", work / "good-mounted", work / "mounted"], check=True)
    before = snapshot(work / "outside")
    lease = Lease(os.fsencode(work / "harmed"), {T}, [("a:t:12345678", T)], "a test")
    try:
        _harm(work / "harmed", place, change)
        for words in _COMMANDS:
            with _in_time(words):
                assert _command(words, work) in _CODES, words
    finally:
        with contextlib.suppress(OSError):  # it may be where nothing can be removed
            lease.close()
    assert snapshot(work / "outside") == before


@settings(max_examples=FUZZ // 8, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(_FILES), data=st.data())
def test_hostile_store_file_never_crashes_a_command(
    work: Path, good: Path, place: str, data: st.DataObject
) -> None:
    path = next(iter(good.glob(place)), None)
    before = READERS["lease"].good if path is None else path.read_bytes()
    _survive(work, place, data.draw(like(before)))


@settings(max_examples=FUZZ // 8, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(_PLACES), kind=st.sampled_from(_KINDS))
@example(place="format", kind=_fifo)
@example(place="lock", kind=_fifo)
@example(place="reserve", kind=_fifo)
@example(place="leases", kind=_link_to_directory)
@example(place="index", kind=_link_to_directory)
@example(place="layers/*", kind=_directory)
def test_wrong_file_type_in_the_store_never_crashes_a_command(
    work: Path, good: Path, place: str, kind: _Harm
) -> None:
    _survive(work, place, kind)


def test_stale_lease_is_not_deleted_through_a_link(cas: Cas, work: Path, good: Path) -> None:
    leases = cas.store / "leases"
    leases.rmdir()
    leases.symlink_to(work / "outside")

    for command in ("mounts", "gc", "ls", "verify"):
        assert "leases is not a directory" in cas(command, code=6).stderr
    assert (work / "outside/file").exists()


def test_mount_record_of_another_target_is_refused(cas: Cas, work: Path, good: Path) -> None:
    (path,) = (cas.store / "mounts").iterdir()
    _, head, *plans = path.read_text().splitlines(keepends=True)
    record = json.loads(head)
    for changes in (
        {"staging": str(work / "outside")},
        {"created": [str(work / "outside/dir")]},
        {"target": str(work / "outside")},
    ):
        path.write_bytes(seal("".join((json.dumps(record | changes), "\n", *plans))))
        for command in (["umount", "mounted"], ["umount", "--all-stale"], ["mounts"], ["gc"]):
            assert "is corrupt" in cas(*command, code=6).stderr
    assert (work / "outside/file").exists()
    assert (work / "outside/dir").exists()


def test_escaping_manifest_with_a_right_digest_is_refused(
    cas: Cas, store: Store, work: Path, good: Path
) -> None:
    data = b"\0".join([MAGIC, b"..", b"d", b"../escaped", b"l /etc"]) + b"\0"
    tree = hash_bytes(data)
    (cas.store / "manifests" / tree).write_bytes(data)
    (cas.store / "layers" / tree).mkdir()
    (cas.store / "artifacts/a/t:87654321").symlink_to(f"../../layers/{tree}")
    artifact = store.resolve("a:t:12345678")
    change_record(store, artifact, signature=Signature.parse("a:t:87654321"), tree=tree)

    for command in (
        ["mount", "target", "a:t:87654321", "--strategy", "copy"],
        ["files", "a:t:87654321"],
        ["diff", "a:t:87654321", "b"],
        ["verify"],
    ):
        done = cas(*command, code=6)
        assert "damaged" in done.stderr + done.stdout
    assert not (work / "escaped").exists()
    assert not (work / "target").exists()
    cas("rm", "a:t:87654321")


def test_hostile_user_input_is_refused_with_a_sentence(cas: Cas, work: Path) -> None:
    cas("put", "a:t:12345678", make(work / "tree", {"x": "x"}))
    for data in TEXTS.values():
        if data.lstrip().startswith((b"[", b"{")):
            (work / "list").write_bytes(data)
            done = cas("run", "--dependencies", "list", "--", "true", code=125)
            assert "is invalid" in done.stderr or "no such ID" in done.stderr
