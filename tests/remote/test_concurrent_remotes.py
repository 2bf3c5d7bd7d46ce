"""Concurrent changes, slow links and inexact servers: reported, and nothing is lost."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cas.model.signature import Signature
from cas.remote import records
from cas.remote.signing import generate
from tests.helpers.remotes import ABSENT, GTK, ZLIB, Exchange, Proxy, proxy_to, pulled, s3, same
from tests.helpers.support import CAS, Cas, make, sound, tidy

pytestmark = pytest.mark.xdist_group("object store")


_PEAK = """
import resource, subprocess, sys
assert subprocess.run(sys.argv[1:]).returncode in (3, 6)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a command from a small process: one counts what its parent had when it was forked."""


def names(count: int) -> list[str]:
    """Return so many signatures."""
    return [f"m{number:03}:do_x:12345678" for number in range(count)]


def record_of(remote: Path, name: str) -> Path:
    """Return where the record of a signature is, in a directory."""
    return remote / "sysroot-cas-1/records" / name.replace(":", "/", 1)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror(work: Path) -> Iterator[Proxy]:
    """A web server for `work` behind a proxy, without ETags and ranges."""
    handler = partial(_Quiet, directory=os.fspath(work))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        with proxy_to(server.server_port) as proxy:
            yield proxy
        server.shutdown()
        thread.join()


def test_push_continues_without_a_removed_artifact(
    cas: Cas, there: Cas, proxy: Proxy, work: Path
) -> None:
    some = names(60)
    for name in some:
        cas("put", name, make(work / name, {"file": name}))
    removed: list[str] = []

    def fault(exchange: Exchange) -> Exchange:
        if exchange.method == "PUT" and not removed:
            removed.extend(some[50:])
            cas("rm", *removed)
        return exchange

    proxy.fault = fault
    document = cas.json("push", "--jobs", "2", s3(work), "--all", code=3)
    outcomes = {one["id"]: one["status"] for one in document["artifacts"]}
    missing = {name for name, status in outcomes.items() if status == "missing"}
    assert missing
    assert missing <= set(removed)
    assert len(outcomes) == len(document["artifacts"]) == 60
    proxy.fault = lambda exchange: exchange
    kept = [name for name in some if name not in missing]
    assert pulled(there, s3(work), *kept) == dict.fromkeys(kept, "pulled")


def test_push_continues_past_a_damaged_artifact(cas: Cas, there: Cas, work: Path) -> None:
    cas("put", ZLIB, make(work / "zlib", {"large": "x" * 500_000}))
    cas("put", GTK, make(work / "gtk", {"small": "gtk"}))
    (large,) = (path for path in cas.store.glob("objects/*/*") if path.stat().st_size == 500_000)
    large.chmod(0o644)
    large.write_text("y" * 500_000)

    done = cas("push", f"file://{work}/remote", "--all", code=6)

    assert f"{GTK}: pushed" in done.stdout
    assert f"{ZLIB}: the content of large is damaged" in done.stderr
    assert pulled(there, f"file://{work}/remote", GTK) == {GTK: "pulled"}


def test_slow_link_is_not_a_stalled_one(cas: Cas, there: Cas, proxy: Proxy, work: Path) -> None:
    files = {f"{n:02}": os.urandom(50_000).hex() for n in range(60)}
    cas("put", GTK, make(work / "most", dict(list(files.items())[:40])))
    (work / "all").mkdir()
    (work / "all/large").write_bytes(os.urandom(48 << 20))
    cas("put", ZLIB, make(work / "all", files))
    there("put", GTK, work / "most")
    there("put", ABSENT, make(work / "large", {}))

    proxy.rate = 8e6
    cas("push", "--timeout", "15", s3(work), ZLIB)
    proxy.rate = 4e5
    os.rename(work / "all/large", work / "large/large")
    there("put", "--replace", ABSENT, work / "large")
    proxy.seen.clear()
    assert (
        there.json("pull", "--timeout", "2", s3(work), ZLIB)["artifacts"][0]["status"] == "pulled"
    )
    assert any(exchange.status == 206 for exchange in proxy.seen)
    same(cas, there, ZLIB)


def test_excess_bytes_of_an_answer_are_refused(cas: Cas, proxy: Proxy, work: Path) -> None:
    files = {f"{n:03}": os.urandom(5000).hex() for n in range(100)}
    cas("put", GTK, make(work / "most", dict(list(files.items())[:80])))
    cas("put", ZLIB, make(work / "all", files))
    cas("push", s3(work), ZLIB)
    more = bytes(300 << 20)
    peaks = [0, 0]
    for number, first in enumerate((None, work / "most")):  # a whole pack, or a part of it
        there = Cas(work / f"there{number}", work)
        there("init") if first is None else there("put", GTK, first)
        proxy.fault = lambda exchange: (
            exchange._replace(body=more)
            if "/packs/" in exchange.path and exchange.method == "GET"
            else exchange
        )
        argv = [os.fspath(CAS), "--store", os.fspath(there.store), "pull", s3(work), ZLIB]
        done = subprocess.run([sys.executable, "-c", _PEAK, *argv], capture_output=True, text=True)
        assert "missing" in done.stdout or "damaged" in done.stdout
        peaks[number] = int(done.stdout.split()[-1])
        sound(there.store)
        tidy(there.store)
    assert max(peaks) < 200 << 10  # KiB


@pytest.mark.parametrize("path", ["/records/", "/trees/", "/packs/"])
def test_truncated_answer_is_retried(
    cas: Cas, there: Cas, mirror: Proxy, trees: dict[str, Path], work: Path, path: str
) -> None:
    cas("put", ZLIB, trees[ZLIB])
    cas("push", f"file://{work}/remote", ZLIB)
    cut: list[str] = []

    def fault(exchange: Exchange) -> Exchange:
        if path in exchange.path and exchange.body and not cut:
            cut.append(exchange.path)
            return exchange._replace(body=exchange.body[: len(exchange.body) // 2])
        return exchange

    mirror.fault = fault
    assert pulled(there, f"{mirror.url}/remote", ZLIB) == {ZLIB: "pulled"}
    assert cut
    same(cas, there, ZLIB)


def test_server_without_ranges_is_asked_for_one_part_then_the_whole(
    cas: Cas, there: Cas, mirror: Proxy, work: Path
) -> None:
    files = {f"{n:03}": os.urandom(2000).hex() for n in range(200)}
    cas("put", GTK, make(work / "most", dict(list(files.items())[:-1])))
    cas("put", ZLIB, make(work / "all", files))
    cas("push", f"file://{work}/remote", ZLIB)
    there("put", GTK, work / "most")
    mirror.seen.clear()

    assert pulled(there, f"{mirror.url}/remote", ZLIB) == {ZLIB: "pulled"}
    assert len([exchange for exchange in mirror.seen if "/packs/" in exchange.path]) == 2


def test_truncated_listing_is_retried(
    cas: Cas, proxy: Proxy, trees: dict[str, Path], work: Path
) -> None:
    cas("put", ZLIB, trees[ZLIB])
    cas("push", s3(work), ZLIB)
    cut: list[str] = []

    def fault(exchange: Exchange) -> Exchange:
        if "list-type" in exchange.path and not cut:
            cut.append(exchange.path)
            return exchange._replace(body=exchange.body[: len(exchange.body) // 2])
        return exchange

    proxy.fault = fault
    assert cas("remote", "ls", s3(work)).stdout == f"{ZLIB}\n"
    assert cut


def test_replaced_remote_tree_is_reported(cas: Cas, there: Cas, work: Path) -> None:
    for store, key in ((cas, "ours"), (there, "theirs")):
        public = store("key", "generate", key).stdout.strip()
        store("put", ZLIB, make(work / f"tree-{key}", {"key": key}))
        (store.store / "config.toml").write_text(f'trusted_keys = ["{public}"]')

    assert not cas("push", f"file://{work}/remote", ZLIB, "--sign-key", "ours").stderr
    said = there("push", f"file://{work}/remote", ZLIB, "--sign-key", "theirs").stderr
    assert "replaced tree " in said
    assert "which no trusted key has signed" in said


@pytest.mark.parametrize("look", [1, 2])
@pytest.mark.parametrize("another", [False, True], ids=["same tree", "another tree"])
def test_concurrent_remote_write_is_not_overwritten(
    cas: Cas, there: Cas, trees: dict[str, Path], proxy: Proxy, work: Path, look: int, another: bool
) -> None:
    ours, theirs = (cas("key", "generate", name).stdout.strip() for name in ("ours", "theirs"))
    for store in (cas, there):
        store("init")
        (store.store / "config.toml").write_text(f'trusted_keys = ["{ours}", "{theirs}"]')
    cas("put", ZLIB, trees[ZLIB])
    there("put", ZLIB, make(work / "other", {"x": "x"}) if another else trees[ZLIB])
    cas("push", s3(work), ZLIB)
    looks: list[str] = []

    def fault(exchange: Exchange) -> Exchange:
        if exchange.method == "GET" and "/records/" in exchange.path:
            looks.append(exchange.path)
            if len(looks) == look:
                there("push", s3(work), ZLIB, "--sign-key", "theirs")
        return exchange

    proxy.fault = fault
    done = cas("push", s3(work), ZLIB, "--sign-key", "ours", code=4 if another else 0)
    assert len(looks) > look
    assert ("the remote has tree" in done.stderr) == another
    proxy.fault = lambda exchange: exchange
    proxy.seen.clear()
    third = Cas(work / "third", work)
    assert pulled(third, s3(work), ZLIB) == {ZLIB: "pulled"}
    same(there, third, ZLIB)
    (record,) = (seen.body for seen in proxy.seen if "/records/" in seen.path and seen.body)
    signers = {line.split()[0].decode() for line in record.splitlines()[1:]}
    assert signers == ({theirs} if another else {ours, theirs})


def test_record_of_many_signatures_stays_readable(
    cas: Cas, trees: dict[str, Path], work: Path
) -> None:
    signature = Signature.parse(ZLIB)
    cas("put", ZLIB, trees[ZLIB])
    cas("push", f"file://{work}/remote", ZLIB)
    path = record_of(work / "remote", ZLIB)
    data = path.read_bytes()
    keys = [generate(work / f"key{number}") for number in range(80)]
    for key in keys:
        data = records.add_signature(records.decode(data, signature), key)
        assert records.decode(data, signature).is_signed_by({key.public})
    assert len(data) <= records.MAX_BYTES
    assert all(records.decode(data, signature).is_signed_by({key.public}) for key in keys[40:])

    path.write_bytes(data.split(b"\n")[0] + b"\nx " + b"j" * 9_500 + b"\n")
    cas("push", f"file://{work}/remote", ZLIB, "--sign-key", "key0")
    assert pulled(Cas(work / "there", work), f"file://{work}/remote", ZLIB) == {ZLIB: "pulled"}


def test_junk_tree_file_is_overwritten(
    cas: Cas, there: Cas, trees: dict[str, Path], work: Path
) -> None:
    remote = work / "remote"
    cas("put", ZLIB, trees[ZLIB])
    cas("push", f"file://{remote}", ZLIB)
    (file,) = (path for path in (remote / "sysroot-cas-1/trees").glob("*/*"))
    file.write_text("junk")
    record_of(remote, ZLIB).unlink()

    cas("push", f"file://{remote}", ZLIB)
    assert pulled(there, f"file://{remote}", ZLIB) == {ZLIB: "pulled"}


def test_wrong_arguments_are_reported_before_anything_is_done(
    cas: Cas, trees: dict[str, Path], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("nan", "inf", "1e15", "0", "-1", "soon"):
        said = cas("remote", "has", "--timeout", text, "http://127.0.0.1:1/x", ZLIB, code=2).stderr
        assert "is not a number of seconds" in said
    assert (
        "is a read-only mirror"
        in cas("put", "--push", "http://mirror/x", ZLIB, trees[ZLIB], code=8).stderr
    )
    assert not cas("ls", code=None).stdout.count(ZLIB)
    for curve in ("prime192v2", "prime256v1"):
        subprocess.run(
            ["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", "ec.pem"],
            cwd=work, check=True,
        )  # fmt: skip
        cas("put", ZLIB, trees[ZLIB])
        said = cas("push", f"file://{work}/remote", ZLIB, "--sign-key", "ec.pem", code=8).stderr
        assert "is not a private Ed25519 key" in said
    for address in ("http://[::1", "http://", "http://a b", "http://127.0.0.1:99999", "host:8333"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert "is not an address" in cas("remote", "has", "s3://b/p", ZLIB, code=8).stderr
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    (work / "config").write_text("[default]\nendpoint_url = 127.0.0.1:8333\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(work / "config"))
    assert "is not an address" in cas("remote", "has", "s3://b/p", ZLIB, code=8).stderr


def test_untrusted_and_forbidden_records_are_not_called_missing(
    cas: Cas, mirror: Proxy, trees: dict[str, Path], work: Path
) -> None:
    cas("put", ZLIB, trees[ZLIB])
    cas("push", f"file://{work}/remote", ZLIB)
    public = cas("key", "generate", "key").stdout.strip()
    (cas.store / "config.toml").write_text(f'trusted_keys = ["{public}"]')
    done = cas("remote", "has", f"file://{work}/remote", ZLIB, ABSENT, code=3)
    assert done.stdout == f"{ZLIB}\n{ABSENT}\n"
    assert done.stderr == f"cas: note: {ZLIB}: its record is not signed by a trusted key\n"

    mirror.fault = lambda exchange: exchange._replace(status=401, body=b"no")
    assert "401" in cas("pull", f"{mirror.url}/remote", ABSENT, code=1).stderr
    mirror.fault = lambda exchange: exchange._replace(status=410, body=b"no")
    assert pulled(cas, f"{mirror.url}/remote", ABSENT, code=3) == {ABSENT: "missing"}
