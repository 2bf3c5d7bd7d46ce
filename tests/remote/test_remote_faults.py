"""Faults and hostile data in a remote do no harm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from cas.content.digest import hash_bytes
from cas.model.manifest import Digest, Manifest
from cas.model.signature import Signature
from cas.remote import records, tree_file
from cas.remote.object_keys import SMALL
from cas.remote.object_store import RemoteConfig
from cas.remote.processes import pull_from
from cas.remote.results import Outcome, Pulled
from cas.store import Store
from cas.system.compression import compress
from tests.helpers.remotes import (
    ABSENT,
    ENVIRONMENT,
    GTK,
    ZLIB,
    Cluster,
    Exchange,
    Proxy,
    Seaweed,
    free_ports,
    proxy_to,
    pulled,
    s3,
    same,
)
from tests.helpers.support import CAS, Cas, make, sound, tidy

pytestmark = pytest.mark.xdist_group("object store")

fuzzed = settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def stored(cas: Cas, trees: dict[str, Path]) -> dict[str, Path]:
    """The trees, stored here."""
    for name, tree in trees.items():
        cas("put", name, tree)
    return trees


def struck(cas: Cas, proxy: Proxy, method: str, number: int, *command: str) -> bool:
    """Kill a command at its `number`th request of a kind; return whether it got that far."""
    process = subprocess.Popen([CAS, "--store", cas.store, *command], stdout=subprocess.DEVNULL)
    seen = 0

    def fault(exchange: Exchange) -> Exchange | None:
        nonlocal seen
        seen += exchange.method == method
        if seen == number:
            process.kill()
        return exchange if seen < number else None

    proxy.fault = fault
    code = process.wait(300)
    proxy.fault = lambda exchange: exchange
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_killed_push_leaves_nothing_misleading(
    cas: Cas, there: Cas, proxy: Proxy, stored: dict[str, Path], work: Path
) -> None:
    number = 1
    while struck(cas, proxy, "PUT", number, "push", f"{s3(work)}/{number}", ZLIB):
        remote = f"{s3(work)}/{number}"
        if there("pull", remote, ZLIB, code=None).returncode == 0:  # killed in the last request
            same(cas, there, ZLIB)
            there("rm", ZLIB)
        else:
            assert pulled(there, remote, ZLIB, code=3) == {ZLIB: "missing"}
        cas("push", remote, ZLIB)
        assert pulled(there, remote, ZLIB) == {ZLIB: "pulled"}
        same(cas, there, ZLIB)
        there("rm", ZLIB)
        number += 1
    assert number > 4  # a pack, two segments, the tree file


def test_killed_pull_leaves_nothing_visible(
    cas: Cas, there: Cas, proxy: Proxy, stored: dict[str, Path], work: Path
) -> None:
    cas("push", s3(work), ZLIB)
    number = 1
    while struck(there, proxy, "GET", number, "pull", s3(work), ZLIB):
        assert there("ls").stdout.count("\n") == 1
        there("gc")
        sound(there.store)
        tidy(there.store)
        number += 1
    assert number > 4
    same(cas, there, ZLIB)


def test_interrupted_push_resumes(
    cas: Cas, there: Cas, proxy: Proxy, stored: dict[str, Path], work: Path
) -> None:
    process = subprocess.Popen(
        [CAS, "--store", cas.store, "push", "--all", "--jobs", "1", s3(work)]
    )

    def fault(exchange: Exchange) -> Exchange:
        if "/records/" in exchange.path and exchange.method == "PUT":
            process.send_signal(signal.SIGINT)
        return exchange

    proxy.fault = fault
    assert process.wait(300) in (130, 0)
    proxy.fault = lambda exchange: exchange
    proxy.seen.clear()
    cas("push", "--all", s3(work))
    puts = [exchange.path for exchange in proxy.seen if exchange.method == "PUT"]
    assert len([path for path in puts if "/records/" in path]) < 2
    assert pulled(there, s3(work), *stored) == dict.fromkeys(stored, "pulled")
    same(cas, there, *stored)


def test_failed_pull_reports_what_was_done(
    cas: Cas, there: Cas, proxy: Proxy, stored: dict[str, Path], work: Path
) -> None:
    names = [f"zlib:do_populate_sysroot:{number:08x}" for number in range(10)]
    for name in names:
        cas("put", name, stored[ZLIB])
    cas("push", "--all", s3(work))
    asked: list[str] = []

    def fault(exchange: Exchange) -> Exchange:
        if "/records/" in exchange.path:
            asked.append(exchange.path)
        return exchange if len(asked) < len(names) else exchange._replace(status=403)

    proxy.fault = fault
    document = there.json("pull", "--jobs", "1", s3(work), *names, code=1)
    done = [one["id"] for one in document["artifacts"] if one["status"] == "pulled"]
    assert 0 < len(done) < len(names)
    assert there("ls").stdout.count("\n") == len(done) + 1
    proxy.fault = lambda exchange: exchange
    there("pull", s3(work), *names)
    same(cas, there, *names)


def test_restart_of_the_server_is_survived(
    cas: Cas, there: Cas, proxy: Proxy, seaweed: Seaweed, stored: dict[str, Path], work: Path
) -> None:
    struck_at: list[str] = []

    def fault(exchange: Exchange) -> Exchange:
        if not struck_at and exchange.method == "PUT":
            struck_at.append(exchange.path)
            seaweed.kill()
            seaweed.start()
        return exchange

    proxy.fault = fault
    done = cas("push", "--all", s3(work), code=None)
    assert struck_at
    if done.returncode:  # it took longer than any user would wait
        assert "hint: check the address" in done.stderr
        cas("push", "--all", s3(work))
    assert pulled(there, s3(work), *stored) == dict.fromkeys(stored, "pulled")
    same(cas, there, *stored)


def test_loss_of_a_cluster_node_is_survived(
    cas: Cas, there: Cas, stored: dict[str, Path], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "cluster").mkdir()
    cluster = Cluster(work / "cluster")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    killed: list[str] = []

    def fault(exchange: Exchange) -> Exchange:
        if not killed and "/packs/" in exchange.path:
            killed.append(exchange.path)
            cluster.kill_one()
        return exchange

    try:
        with proxy_to(cluster.port) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            cas("push", s3(work), GTK)
            proxy.fault = fault
            for command in (("push", s3(work), ZLIB), ("push", s3(work), ZLIB)):
                if cas(*command, code=None).returncode == 0:
                    break
            assert killed
            assert pulled(there, s3(work), *stored) == dict.fromkeys(stored, "pulled")
    finally:
        cluster.kill()
    same(cas, there, *stored)


def test_pull_beside_gc_and_rm_is_whole(
    cas: Cas, there: Cas, stored: dict[str, Path], work: Path
) -> None:
    remote = f"file://{work}/remote"
    cas("push", "--all", remote)
    there("put", GTK, stored[GTK])
    for _ in range(3):
        pull = subprocess.Popen([CAS, "--store", there.store, "pull", remote, ZLIB, GTK])
        while pull.poll() is None:
            there("gc", "--grace", "0s", "--keep-last", "1")
            subprocess.run(
                [CAS, "--store", there.store, "rm", GTK], capture_output=True, check=False
            )
        assert pull.returncode == 0
        sound(there.store)
        there("has", ZLIB)
        there("rm", ZLIB)
    tidy(there.store)


def test_concurrent_pulls_of_one_artifact_both_succeed(
    cas: Cas, there: Cas, stored: dict[str, Path], work: Path
) -> None:
    cas("push", "--all", f"file://{work}/remote")
    command = [CAS, "--store", str(there.store), "pull", f"file://{work}/remote", ZLIB, GTK]
    pulls = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(300) for process in pulls] == [0] * 4
    same(cas, there, *stored)


@pytest.mark.parametrize("number", range(2))
def test_pull_onto_a_full_disk_leaves_nothing(
    cas: Cas, stored: dict[str, Path], work: Path, number: int
) -> None:
    small = work / "small"
    small.mkdir()
    inside = f'mount -t tmpfs -o size={(1, 5)[number]}m none {small} && exec "$@"'
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", inside, "sh"]
    push = [CAS, "--store", str(cas.store), "push", f"file://{small}/remote", ZLIB]
    done = subprocess.run([*enter, *push], capture_output=True, text=True, check=False)
    assert (done.returncode, "free space on the disk" in done.stderr) == (1, True), done.stderr

    cas("push", f"file://{work}/remote", *stored)
    pull = f'{CAS} --store {small}/store pull file://{work}/remote {ZLIB}; code=$?; ' \
           f'{CAS} --store {small}/store verify; exit $code'  # fmt: skip
    done = subprocess.run([*enter, "sh", "-c", pull], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 8), done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def mirror(work: Path) -> Iterator[str]:
    """A static web server, nginx, of `work/remote`."""
    (port,) = free_ports(1)
    place = work / "nginx"
    place.mkdir()
    (place / "conf").write_text(
        f"daemon off; master_process off; pid {place}/pid; error_log {place}/log;\n"
        + ("user root;\n" if os.geteuid() == 0 else "")
        + "events {}\nhttp { access_log off; "
        + "".join(f"{name}_temp_path {place}/{name}; "
                  for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        + f"server {{ listen 127.0.0.1:{port}; root {work}/remote; }} }}\n"
    )  # fmt: skip
    command = ["/usr/sbin/nginx", "-p", str(place), "-c", f"{place}/conf", "-e", f"{place}/log"]
    with subprocess.Popen(command) as server:
        yield f"http://127.0.0.1:{port}"
        server.terminate()


def test_static_mirror_can_be_pulled_from(
    cas: Cas, there: Cas, stored: dict[str, Path], work: Path, mirror: str
) -> None:
    cas("push", "--all", f"file://{work}/remote")

    assert pulled(there, mirror, *stored, ABSENT, code=3) == {
        **dict.fromkeys(stored, "pulled"),
        ABSENT: "missing",
    }
    same(cas, there, *stored)
    there("remote", "has", mirror, ZLIB)
    assert "by exact" not in there("remote", "ls", mirror, code=1).stdout
    cas("push", mirror, ZLIB, code=8)


@pytest.fixture
def prepared(cas: Cas, work: Path) -> tuple[Path, Digest]:
    """A remote with one small artifact, and the digest of its tree."""
    files = {"a": "a" * 1000, "b*": "b", "d/c": "c", "l@": "a", "nothing": ""}
    tree = make(work / "tree", files)
    (tree / "large").write_bytes(os.urandom(300_000))
    cas("put", ZLIB, tree)
    cas("push", f"file://{work}/remote", ZLIB)
    with Store(cas.store) as store:
        return work / "remote", store.resolve(ZLIB).tree


def taken(work: Path, remote: Path, first: Path | None = None) -> list[Pulled]:
    """Pull into a new store, which has a tree or none; assert that it is sound."""
    done: list[Pulled] = []
    shutil.rmtree(work / "new", ignore_errors=True)
    with Store(work / "new", create=True) as store:
        if first is not None:
            store.put(GTK, first)
        source = RemoteConfig(f"file://{remote}")
        pull_from(store, source, (), [Signature.parse(ZLIB)], done.append)
        assert list(store.verify()) == []
    tidy(work / "new")
    return done


@given(data=st.data())
@fuzzed
def test_changed_remote_file_never_changes_the_stored_tree(
    prepared: tuple[Path, Digest], work: Path, data: st.DataObject
) -> None:
    remote, tree = prepared
    shutil.rmtree(work / "changed", ignore_errors=True)
    shutil.copytree(remote, work / "changed")
    files = sorted(path for path in (work / "changed").rglob("*") if path.is_file())
    assert len(files) == 4
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(files))
        content = bytearray(path.read_bytes())
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(start + 20, len(content))))
        content[start:end] = data.draw(st.binary(max_size=20))
        path.write_bytes(content)

    (done,) = taken(work, work / "changed")

    if done.outcome is Outcome.PULLED:
        assert done.artifact is not None
        assert done.artifact.tree == tree
    else:
        assert done.outcome in (Outcome.DAMAGED, Outcome.MISSING)


@given(st.binary(max_size=300))
@fuzzed
def test_arbitrary_bytes_are_not_a_record_or_tree_file(data: bytes) -> None:
    tree = hash_bytes(b"x")
    for content in (data, compress(data)):
        with pytest.raises(tree_file.BadTreeFile):
            tree_file.decode(content, tree)
    with pytest.raises(records.BadRecord):
        records.decode(data, Signature.parse(ZLIB))


PACK = "0" * 64


def small(manifest: Manifest) -> list[tree_file.BlobInfo]:
    """Return the contents of a tree that are in packs."""
    return [one for one in tree_file.contents_in(manifest).values() if one.size < SMALL]


@pytest.mark.parametrize(
    "head",
    [b"[]", b"{}", b"[1]", b"[[1]]", b"[[[1], 2]]", b"[[\"x\", [1]]]", b"[[\"%s\", [true]]]",
     b"[[\"%s\", [-1]]]", b"[[\"%s\", [1], 1]]", b"[[\"%s\", []]]", b"[[\"%s\", [9, 9, 9]]]",
     b"[[\"%s\", [9, 99999999]]]", b"[[\"%s\", [9]], [\"%s\", [9, 9]]]", b"[" * 1000, b"\xff"],
)  # fmt: skip
def test_tree_file_with_invalid_packs_is_refused(head: bytes, cas: Cas, work: Path) -> None:
    cas("put", ZLIB, make(work / "tree", {"a": "a", "b": "b"}))
    with Store(cas.store) as store:
        tree = store.resolve(ZLIB).tree
        manifest = store.tree(tree)
    assert len(small(manifest)) == 2
    line = head.replace(b"%s", PACK.encode())

    with pytest.raises(tree_file.BadTreeFile):
        tree_file.decode(compress(line + b"\n" + manifest.encode()), tree)


def test_decompression_bomb_stops_at_the_manifest_size(
    prepared: tuple[Path, Digest], work: Path
) -> None:
    remote, tree = prepared
    bomb = compress(b"\0" * (1 << 28))
    place = remote / "sysroot-cas-1"
    (pack,) = (path for path in (place / "packs").rglob("*") if path.is_file())
    file = place / "trees" / tree[:2] / tree[2:]
    found = tree_file.decode(file.read_bytes(), tree)
    count = len(small(found.manifest))
    lengths = [len(bomb)] * count
    (segment,) = (path for path in (place / "objects").rglob("*") if path.is_file())
    before = segment.read_bytes()

    segment.write_bytes(bomb)
    assert [one.outcome for one in taken(work, remote)] == [Outcome.DAMAGED]
    segment.write_bytes(before)
    pack.write_bytes(bomb * count)
    file.write_bytes(tree_file.encode(found.manifest.encode(), [(Digest(PACK), lengths)]))
    (place / "packs/00").mkdir(exist_ok=True)
    (place / "packs/00" / PACK[2:]).write_bytes(bomb * count)
    assert [one.outcome for one in taken(work, remote)] == [Outcome.DAMAGED]


def forge(remote: Path, manifest: bytes, packs: list[tuple[Digest, list[int]]]) -> None:
    """Let the record mean the tree with a manifest."""
    tree = hash_bytes(manifest)
    place = remote / "sysroot-cas-1"
    (place / "trees" / tree[:2]).mkdir(exist_ok=True)
    (place / "trees" / tree[:2] / tree[2:]).write_bytes(tree_file.encode(manifest, packs))
    record = records.RemoteRecord(ZLIB, tree, [0, 0, 0], 0)
    (place / "records" / ZLIB.replace(":", "/", 1)).write_bytes(records.encode(record, None))


@pytest.mark.parametrize("sizes", [(7,), (5, 7), (5, 300_000), (300_000,), (8 * 10**18,)])
@pytest.mark.parametrize("here", [False, True])
def test_wrong_size_is_not_stored(
    prepared: tuple[Path, Digest], work: Path, sizes: tuple[int, ...], here: bool
) -> None:
    remote, _ = prepared
    content = hash_bytes(b"hello")
    nodes = b"".join(b"%d\0f %d %s\0" % (n, s, content.encode()) for n, s in enumerate(sizes))
    frame = compress(b"hello")
    pack = hash_bytes(frame)
    (remote / f"sysroot-cas-1/packs/{pack[:2]}").mkdir(exist_ok=True)
    (remote / f"sysroot-cas-1/packs/{pack[:2]}/{pack[2:]}").write_bytes(frame)
    small = [(pack, [len(frame)])] if min(sizes) < 1 << 18 else []
    forge(remote, b"sysroot-cas manifest 1\0" + nodes, small)
    first = make(work / "first", {"hello": "hello"}) if here else None

    (done,) = taken(work, remote, first)

    assert done.outcome in (Outcome.DAMAGED, Outcome.REFUSED, Outcome.MISSING)


@pytest.mark.parametrize("dropped", [[1 << 32, 0, 0], [0, 0], [0, 0, 0, 0], [-1, 0, 0]])
def test_record_with_invalid_counts_is_refused(
    prepared: tuple[Path, Digest], work: Path, dropped: list[int]
) -> None:
    remote, tree = prepared
    record = records.RemoteRecord(ZLIB, tree, dropped, 0)
    path = remote / "sysroot-cas-1/records" / ZLIB.replace(":", "/", 1)
    path.write_bytes(records.encode(record, None))

    assert [one.outcome for one in taken(work, remote)] == [Outcome.DAMAGED]


def test_short_pack_part_fails_only_its_artifact(cas: Cas, work: Path) -> None:
    remote = f"file://{work}/remote"
    files = {f"{n:04}": os.urandom(2000).hex() for n in range(200)}
    cas("put", GTK, make(work / "most", dict(list(files.items())[:-1])))
    cas("put", ZLIB, make(work / "all", files))
    cas("push", remote, ZLIB)
    there = Cas(work / "there", work)
    there("put", GTK, work / "most")
    (pack,) = (p for p in (work / "remote/sysroot-cas-1/packs").rglob("*") if p.is_file())
    pack.write_bytes(pack.read_bytes()[:1000])

    assert pulled(there, remote, ZLIB, code=6) == {ZLIB: "damaged"}
    with Store(cas.store) as store:
        tree = store.resolve(ZLIB).tree
        manifest = store.tree(tree).encode()
    lengths = [9] * 199 + [0]
    forge(work / "remote", manifest, [(Digest(pack.parent.name + pack.name), lengths)])
    assert pulled(there, remote, ZLIB, code=6) == {ZLIB: "damaged"}


def test_mirror_without_ranges_sends_whole_packs(cas: Cas, work: Path) -> None:
    files = {f"{n:04}": os.urandom(2000).hex() for n in range(200)}
    cas("put", GTK, make(work / "most", dict(list(files.items())[:-1])))
    cas("put", ZLIB, make(work / "all", files))
    cas("push", f"file://{work}/remote", ZLIB)
    there = Cas(work / "there", work)
    there("put", GTK, work / "most")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "http.server", "-d", work / "remote", "-b", "127.0.0.1", port]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL) as server:
        while there("remote", "has", f"http://127.0.0.1:{port}", ZLIB, code=None).returncode:
            assert server.poll() is None
        assert pulled(there, f"http://127.0.0.1:{port}", ZLIB) == {ZLIB: "pulled"}
        server.terminate()
    same(cas, there, ZLIB)


def test_tree_file_of_too_many_packs_is_refused_unread(cas: Cas, work: Path) -> None:
    cas("put", ZLIB, make(work / "tree", {"a": "a"}))
    with Store(cas.store) as store:
        tree = store.resolve(ZLIB).tree
        manifest = store.tree(tree).encode()
    bomb = compress(b"[" + b"[]," * 1_000_000 + b"[]]\n" + manifest)
    with pytest.raises(tree_file.BadTreeFile, match="more packs than contents"):
        tree_file.decode(bomb, tree)


def test_huge_claimed_tree_is_refused(prepared: tuple[Path, Digest], work: Path) -> None:
    remote, _ = prepared
    forge(remote, b"sysroot-cas manifest 1\0x\0f %d %s\0" % (1 << 60, PACK.encode()), [])

    (done,) = taken(work, remote)

    assert done.outcome is Outcome.REFUSED
    assert "more than the free disk space" in done.why
