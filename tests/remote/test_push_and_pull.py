"""Sharing through real object stores, none of which is trusted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from cas.store import Store
from tests.helpers.remotes import (
    ABSENT,
    ENVIRONMENT,
    GTK,
    ZLIB,
    Exchange,
    Proxy,
    flipped,
    free_ports,
    pulled,
    s3,
    same,
)
from tests.helpers.support import CAS, Cas, make, shown_on_terminal, snapshot, sound, tidy

pytestmark = pytest.mark.xdist_group("object store")


@pytest.fixture(params=["s3", "file"])
def remote(request: pytest.FixtureRequest, proxy: Proxy, work: Path) -> str:
    """A remote of each kind, empty."""
    return f"file://{work}/re mote" if request.param == "file" else s3(work)


@pytest.fixture
def pushed(cas: Cas, trees: dict[str, Path], remote: str) -> dict[str, Path]:
    """The trees, stored here and pushed."""
    for name, tree in trees.items():
        cas("put", name, tree)
    done = cas.json("push", remote, "--all")["artifacts"]
    assert {one["id"]: one["status"] for one in done} == dict.fromkeys(trees, "pushed")
    return trees


def test_pushed_artifact_is_pulled_unchanged(
    cas: Cas, there: Cas, remote: str, pushed: dict[str, Path]
) -> None:
    assert pulled(there, remote, *pushed) == dict.fromkeys(pushed, "pulled")
    same(cas, there, *pushed)
    assert pulled(there, remote, *pushed, ABSENT, code=3) == {
        **dict.fromkeys(pushed, "known"),
        ABSENT: "missing",
    }


def test_push_and_pull_transfer_nothing_twice(
    cas: Cas, there: Cas, remote: str, pushed: dict[str, Path]
) -> None:
    again = cas.json("push", remote, *pushed)["artifacts"]
    first = there.json("pull", remote, ZLIB)["artifacts"]
    second = there.json("pull", remote, GTK)["artifacts"]

    assert [(one["status"], one["sent_bytes"]) for one in again] == [("known", 0)] * 2
    assert first[0]["fetched_bytes"] > 9 << 20  # the large file, which cannot be compressed
    assert second[0]["fetched_bytes"] < 2 << 20


def test_mostly_present_tree_is_fetched_by_ranges(
    cas: Cas, there: Cas, remote: str, work: Path
) -> None:
    files = {f"{n:04}": os.urandom(5000).hex() for n in range(1000)}
    cas("put", ZLIB, make(work / "old", files))
    there("put", ZLIB, work / "old")
    cas("put", GTK, make(work / "new", {**files, "0100": "new", "0900": "new too"}))
    cas("push", remote, GTK)

    done = there.json("pull", remote, GTK)["artifacts"]

    same(cas, there, GTK)
    assert done[0]["new_bytes"] == len("new" + "new too")
    assert done[0]["fetched_bytes"] < 200_000  # of five millions


def test_remote_option_pulls_missing_artifacts(
    there: Cas, remote: str, pushed: dict[str, Path], work: Path
) -> None:
    before = {name: snapshot(tree) for name, tree in pushed.items()}

    there("run", "--remote", remote, "--sysroot", f"s={ZLIB}", "--", "test", "-x", "s/bin/tool")
    there("mount", "--strategy", "hardlink", "--remote", remote, work / "target", f"{GTK}@3")
    assert snapshot(work / "target") == before[GTK]
    there("umount", work / "target")
    there("rm", ZLIB)
    there("plan", "--remote", remote, work / "target", ZLIB)
    there("rm", ZLIB)
    assert there.json("has", "--remote", remote, ZLIB, ABSENT, code=3) == {"missing": [ABSENT]}
    there("has", ZLIB)


def test_remote_lists_its_artifacts(there: Cas, remote: str, pushed: dict[str, Path]) -> None:
    assert there.json("remote", "ls", remote) == sorted([ZLIB, GTK])
    assert there.json("remote", "ls", remote, "gtk*") == [GTK]
    assert there.json("remote", "has", remote, ZLIB, GTK) == {"missing": []}
    assert there.json("remote", "has", remote, ZLIB, ABSENT, code=3) == {"missing": [ABSENT]}
    assert not there.store.exists()


def test_transfer_progress_shows_artifacts_and_bytes(
    cas: Cas, there: Cas, remote: str, pushed: dict[str, Path]
) -> None:
    shown = shown_on_terminal(there, "pull", remote, *pushed)
    assert "Pulling" in shown
    assert "2/2" in shown
    assert "MiB/s" in shown
    assert "Pushing" in shown_on_terminal(cas, "push", remote, "--all")


def test_put_pushes_and_reports_failure(
    cas: Cas, there: Cas, proxy: Proxy, trees: dict[str, Path], work: Path
) -> None:
    cas("put", ZLIB, trees[ZLIB], "--push", s3(work))
    assert pulled(there, s3(work), ZLIB) == {ZLIB: "pulled"}

    proxy.fault = lambda exchange: exchange._replace(status=403, body=b"")
    assert "not pushed" in cas("put", GTK, trees[GTK], "--push", s3(work)).stderr
    cas("has", GTK)


def test_push_of_the_same_tree_with_other_losses_is_known(
    cas: Cas, there: Cas, remote: str, pushed: dict[str, Path]
) -> None:
    (pushed[ZLIB] / "bin/tool").chmod(0o4755)
    there("put", ZLIB, pushed[ZLIB])
    done = there.json("push", remote, ZLIB)["artifacts"]
    assert [one["status"] for one in done] == ["known"]
    same_tree = [store.json("show", ZLIB)["tree"] for store in (cas, there)]
    assert same_tree[0] == same_tree[1]


def test_push_of_another_tree_replaces_only_if_asked(
    cas: Cas, there: Cas, remote: str, pushed: dict[str, Path], work: Path
) -> None:
    there("put", ZLIB, make(work / "other", {"other": "other"}))

    done = there("push", remote, ZLIB, code=4)
    third = Cas(work / "third", work)

    assert "the remote has tree" in done.stderr
    assert pulled(third, remote, ZLIB) == {ZLIB: "pulled"}
    same(cas, third, ZLIB)
    there("push", "--replace", remote, ZLIB)
    third("rm", ZLIB)
    assert pulled(third, remote, ZLIB) == {ZLIB: "pulled"}
    same(there, third, ZLIB)


def test_concurrent_push_reports_one_conflict(
    cas: Cas, there: Cas, remote: str, work: Path
) -> None:
    for number, store in enumerate((cas, there)):
        store("put", ZLIB, make(work / f"tree-{number}", {"x": str(number)}))
    command = [CAS, "push", remote, ZLIB, "--store"]
    both = [subprocess.Popen([*command, one.store], stderr=subprocess.PIPE) for one in (cas, there)]

    said = [process.communicate()[1] for process in both]

    assert sorted(process.returncode for process in both) == [0, 4], said


@pytest.mark.parametrize("what", ["records", "trees", "packs", "objects"])
def test_vanished_remote_file_is_restored_by_push_replace(
    cas: Cas, there: Cas, trees: dict[str, Path], work: Path, what: str
) -> None:
    cas("put", ZLIB, trees[ZLIB])
    cas("push", f"file://{work}/remote", ZLIB)
    shutil.rmtree(work / "remote/sysroot-cas-1" / what)

    assert pulled(there, f"file://{work}/remote", ZLIB, code=3) == {ZLIB: "missing"}
    assert os.listdir(there.store / "layers") == []
    sound(there.store)
    tidy(there.store)
    cas("push", "--replace", f"file://{work}/remote", ZLIB)
    assert pulled(there, f"file://{work}/remote", ZLIB) == {ZLIB: "pulled"}
    there("rm", ZLIB)
    for path in (work / "remote/sysroot-cas-1" / what).rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    assert pulled(there, f"file://{work}/remote", ZLIB, code=6) == {ZLIB: "damaged"}
    cas("push", "--replace", f"file://{work}/remote", ZLIB)
    assert pulled(there, f"file://{work}/remote", ZLIB) == {ZLIB: "pulled"}


@pytest.mark.parametrize("what", ["records", "trees", "packs", "objects"])
@pytest.mark.parametrize("often", [True, False])
def test_flipped_bit_in_transit_is_detected(
    cas: Cas,
    there: Cas,
    trees: dict[str, Path],
    proxy: Proxy,
    work: Path,
    what: str,
    often: bool,
) -> None:
    cas("put", ZLIB, trees[ZLIB])
    cas("push", s3(work), ZLIB)
    flips: list[str] = []

    def fault(exchange: Exchange) -> Exchange:
        if f"/{what}/" in exchange.path and exchange.method == "GET" and (often or not flips):
            flips.append(exchange.path)
            return flipped(exchange, len(exchange.body) // 2)
        return exchange

    proxy.fault = fault
    done = there.json("pull", s3(work), ZLIB, code=6 if often else 0)["artifacts"]

    assert flips
    assert done[0]["status"] == ("damaged" if often else "pulled"), done
    sound(there.store)
    tidy(there.store)
    if not often:
        same(cas, there, ZLIB)


def test_transient_errors_are_retried(
    cas: Cas, there: Cas, trees: dict[str, Path], proxy: Proxy, work: Path
) -> None:
    cas("put", ZLIB, trees[ZLIB])
    failed: set[tuple[str, str]] = set()

    def fault(exchange: Exchange) -> Exchange:
        if (exchange.method, exchange.path) in failed or exchange.status >= 400:
            return exchange
        failed.add((exchange.method, exchange.path))
        if exchange.method == "GET" and len(failed) % 2:
            return exchange._replace(body=exchange.body[: len(exchange.body) // 2])
        return exchange._replace(status=503, body=b"<Code>SlowDown</Code>")

    proxy.fault = fault
    cas("push", s3(work), ZLIB)
    pushed = len(failed)
    assert pulled(there, s3(work), ZLIB) == {ZLIB: "pulled"}
    same(cas, there, ZLIB)
    assert 0 < pushed < len(failed)


def test_stalled_server_is_given_up(
    cas: Cas, there: Cas, trees: dict[str, Path], proxy: Proxy, work: Path
) -> None:
    cas("put", ZLIB, trees[ZLIB])
    cas("push", s3(work), ZLIB)
    proxy.fault = lambda exchange: exchange if "/records/" in exchange.path else None

    done = there("pull", "--timeout", "1", s3(work), ZLIB, code=1)
    assert "hint: check the connection" in done.stderr
    (there.store / "config.toml").write_text("remote_timeout_s = 1")
    for remote in (s3(work), f"file://{work}/not-mounted"):
        done = there("has", "--remote", remote, ZLIB, code=3)
        assert "not pulled" in done.stderr
    done = cas("push", "--timeout", "1", s3(work) + "/new", ZLIB, code=1)
    proxy.fault = lambda exchange: exchange
    assert pulled(there, s3(work) + "/new", ZLIB, code=3) == {ZLIB: "missing"}
    cas("push", s3(work) + "/new", ZLIB)
    assert pulled(there, s3(work) + "/new", ZLIB) == {ZLIB: "pulled"}


def test_remote_error_names_the_cause(
    cas: Cas, trees: dict[str, Path], proxy: Proxy, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cas("put", ZLIB, trees[ZLIB])

    def said(remote: str, *, code: int) -> str:
        return cas("pull", "--timeout", "20", remote, ABSENT, code=code).stderr

    assert "there is no such bucket" in said("s3://nobody/x", code=1)
    assert "nor the name of a remote" in said("farm", code=8)
    for url in (
        "gopher://host/x",
        "memory:///",
        "s3://user:password@x/y",
        "s3://x/y?z",
        "file:///",
    ):
        assert "is not a remote" in said(url, code=8)
        assert "password" not in said(url, code=8)
    assert "no such directory" in said(f"file://{work}/absent", code=1)
    assert not (work / "absent").exists()
    assert "is a read-only mirror" in cas("push", "https://host/x", ZLIB, code=8).stderr
    for status, body, expected in (
        (403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>", "set the clock"),
        (500, b"<Error><Code>InternalError</Code><Message>sorry</Message></Error>", "sorry"),
        (404, b"<html>not here</html>", ""),
        (400, b"<Code>a</Code><Message>b\x1b]0;c\x07d\ncas: forged</Message>", "b ]0;c d cas:"),
    ):
        proxy.fault = partial(Exchange._replace, status=status, body=body)
        assert expected in said(s3(work), code=3 if status == 404 else 1)
    proxy.fault = lambda exchange: exchange
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "check the credentials" in said(s3(work), code=1)
    assert "check the credentials" in cas("push", s3(work), ZLIB, code=1).stderr
    for address in ("", "127.0.0.1:80"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert "is not an address" in said(s3(work), code=8)
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    assert "no connection" in said(s3(work), code=1)


def test_settings_come_from_the_files_of_aws_and_of_the_store(
    cas: Cas, there: Cas, trees: dict[str, Path], proxy: Proxy, work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cas("put", ZLIB, trees[ZLIB])
    for name in (*ENVIRONMENT, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "farm")
    for name in ("config", "credentials"):
        monkeypatch.setenv(
            {"config": "AWS_CONFIG_FILE", "credentials": "AWS_SHARED_CREDENTIALS_FILE"}[name],
            str(work / name),
        )
    (work / "config").write_text(f"[profile farm]\nregion = here\nendpoint_url = {proxy.url}\n")
    (work / "credentials").write_text(
        "[default]\naws_access_key_id = no\n"
        "[farm]\naws_access_key_id = key\naws_secret_access_key = secret\n"
    )
    for store in (cas.store, there.store):
        store.mkdir(exist_ok=True)
        (store / "config.toml").write_text(f'[remotes]\nfarm = "{s3(work)}"\n')

    cas("push", "farm", ZLIB)

    assert pulled(there, "farm", ZLIB) == {ZLIB: "pulled"}
    assert list(Store(there.store).verify()) == []


@pytest.mark.parametrize(
    "text",
    ["remotes = 1", 'remotes = {a = "b"}', "x = 1", "trusted_keys = [1]", "]", "\xff",
     'trusted_keys = ["ed25519:short"]', "remote_timeout_s = 0", "remote_timeout_s = true"],
)  # fmt: skip
def test_invalid_remote_configuration_is_refused(cas: Cas, work: Path, text: str) -> None:
    cas("init")
    (cas.store / "config.toml").write_text(text, encoding="latin-1")

    assert "config.toml" in cas("pull", f"file://{work}", ABSENT, code=2).stderr


def test_untrusted_record_is_ignored(
    cas: Cas, there: Cas, remote: str, trees: dict[str, Path], work: Path
) -> None:
    keys = {name: cas("key", "generate", name).stdout.strip() for name in ("ours", "theirs")}
    assert (work / "ours").stat().st_mode & 0o777 == 0o600
    cas("put", ZLIB, trees[ZLIB])
    there("init")
    (there.store / "config.toml").write_text(f'trusted_keys = ["{keys["ours"]}"]')

    for signed in ((), ("--sign-key", "theirs")):
        cas("push", remote, ZLIB, *signed)
        done = there("pull", remote, ZLIB, code=3)
        assert "untrusted" in done.stdout
        assert "not signed by a trusted key" in done.stderr
        assert there("has", "--remote", remote, ZLIB, code=3).stderr
        assert ZLIB in there("remote", "has", remote, ZLIB, code=3).stdout
    cas("push", remote, ZLIB, "--sign-key", "ours")
    assert pulled(there, remote, ZLIB) == {ZLIB: "pulled"}


def test_signature_covers_id_and_tree(
    cas: Cas, there: Cas, trees: dict[str, Path], work: Path
) -> None:
    public = cas("key", "generate", "key").stdout.strip()
    for name, tree in trees.items():
        cas("put", name, tree)
    cas("push", f"file://{work}/remote", "--all", "--sign-key", "key")
    there("init")
    (there.store / "config.toml").write_text(f'trusted_keys = ["{public}"]')
    records = work / "remote/sysroot-cas-1/records"
    zlib, gtk = (records / name.replace(":", "/", 1) for name in (ZLIB, GTK))
    line, mark = zlib.read_text().splitlines()
    other = json.loads(gtk.read_text().splitlines()[0])["tree"]
    document = json.loads(line)

    gtk.write_bytes(zlib.read_bytes())
    forged = json.dumps(document | {"tree": other}, separators=(",", ":"), sort_keys=True)
    zlib.write_text(f"{forged}\n{mark}\n")

    assert pulled(there, f"file://{work}/remote", ZLIB, GTK, code=6) == {
        ZLIB: "untrusted",
        GTK: "damaged",
    }
    assert there("ls").stdout.count("\n") == 1


def test_other_signatures_survive_a_rewrite(
    cas: Cas, there: Cas, trees: dict[str, Path], work: Path
) -> None:
    remote = f"file://{work}/remote"
    ours, theirs = (cas("key", "generate", name).stdout.strip() for name in ("ours", "theirs"))
    for store in (cas, there):
        store("put", ZLIB, trees[ZLIB])
    (there.store / "config.toml").write_text(f'trusted_keys = ["{theirs}"]')
    cas("push", remote, ZLIB, "--sign-key", "ours")
    record = work / "remote/sysroot-cas-1/records" / ZLIB.replace(":", "/", 1)
    before = record.read_text()

    old = time.time() - 8 * 86400
    for path in (work / "remote").rglob("*"):
        os.utime(path, (old, old))
    assert "without --sign-key" in there("push", remote, ZLIB).stderr
    assert record.read_text() == before
    assert all(p.stat().st_mtime > old + 86400 for p in (work / "remote").rglob("*") if p.is_file())
    there("push", remote, ZLIB, "--sign-key", "theirs")
    line, *marks = record.read_text().splitlines()
    assert [mark.split()[0] for mark in marks] == [theirs, ours]
    assert before.splitlines() == [line, marks[1]]
    for key in (ours, theirs):
        third = Cas(work / key[-9:-1], work)
        third("init")
        (third.store / "config.toml").write_text(f'trusted_keys = ["{key}"]')
        assert pulled(third, remote, ZLIB) == {ZLIB: "pulled"}

    other = Cas(work / "other", work)
    other("put", ZLIB, make(work / "x", {"x": "x"}))
    (other.store / "config.toml").write_text(f'trusted_keys = ["{theirs[:-9]}AAAAAAAA="]')
    other("push", remote, ZLIB, code=4)
    assert record.read_text().splitlines()[0] == line


def test_poisoned_record_is_replaced_by_a_trusted_push(
    cas: Cas, there: Cas, trees: dict[str, Path], work: Path
) -> None:
    public = cas("key", "generate", "key").stdout.strip()
    cas("put", ZLIB, trees[ZLIB])
    there("put", ZLIB, make(work / "poison", {"x": "x"}))
    there("push", f"file://{work}/remote", ZLIB)
    (cas.store / "config.toml").write_text(f'trusted_keys = ["{public}"]')

    cas("push", f"file://{work}/remote", ZLIB, "--sign-key", "key")

    third = Cas(work / "third", work)
    assert pulled(third, f"file://{work}/remote", ZLIB) == {ZLIB: "pulled"}
    same(cas, third, ZLIB)


def test_missing_extra_is_named(cas: Cas, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("obstore", "cryptography"):
        (work / "lacking" / name).mkdir(parents=True)
        (work / "lacking" / name / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(work / "lacking"))

    for command in (("pull", f"file://{work}", ABSENT), ("key", "generate", "key"),
                    ("has", "--remote", f"file://{work}", ABSENT)):  # fmt: skip
        assert "pip install 'sysroot-cas[remote]'" in cas(*command, code=1).stderr
    assert not (work / "key").exists()
