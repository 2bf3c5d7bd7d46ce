"""A real composition: 135 Debian packages, some 30,000 files, and a compiler that works in it."""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mounter
from cas.compose.composition import Composition
from cas.content.digest import hash_bytes
from cas.store import Store
from tests.helpers.memory import directory_in_memory
from tests.helpers.support import ROOT, Tree, seen_in_run, snapshot

pytestmark = pytest.mark.xdist_group("workload")  # one process puts all packages, once
PROJECT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
WORKLOAD = Path(os.environ.get("CAS_TEST_WORKLOAD") or CACHE / "sysroot-cas-workload")

PROGRAM = r"""
#include <boost/algorithm/string.hpp>
#include <boost/version.hpp>
#include <openssl/evp.h>
#include <unicode/unistr.h>
#include <zlib.h>
#include <iostream>

int main() {
    icu::UnicodeString upper = icu::UnicodeString::fromUTF8("sysroot").toUpper();
    std::string text;
    upper.toUTF8String(text);
    boost::algorithm::replace_all(text, "SYS", "sys");
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    EVP_Digest(text.data(), text.size(), digest, &length, EVP_sha256(), nullptr);
    unsigned long crc = crc32(0, reinterpret_cast<const Bytef *>(text.data()), text.size());
    std::cout << text << " " << length << " " << std::hex << crc << " boost " << std::dec
              << BOOST_VERSION << std::endl;
}
"""
BUILD = r"""
set -eu
g++ --sysroot="$PWD/sysroot" -o program program.cc -licuuc -licudata -lcrypto -lz
libraries=sysroot/lib/x86_64-linux-gnu
$libraries/ld-linux-x86-64.so.2 \
    --library-path "$libraries:sysroot/usr/lib/x86_64-linux-gnu" ./program
"""


@pytest.fixture(scope="module")
def packages() -> list[Path]:
    """The trees of the packages; fetched if they are not there yet."""
    if "CAS_TEST_WORKLOAD" not in os.environ:
        subprocess.run([sys.executable, PROJECT / "tools" / "workload", WORKLOAD], check=True)
    return sorted((WORKLOAD / "trees").iterdir())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for 4 GiB of trees."""
    fallback = tmp_path_factory.mktemp("workload")
    with directory_in_memory("workload", fallback, room_bytes=6 << 30) as directory:
        yield directory


@pytest.fixture(scope="module")
def full_store(place: Path, packages: list[Path]) -> Iterator[Store]:
    with Store(place / "store", create=True) as store:
        for number, tree in enumerate(packages):
            store.put(f"{tree.name}:bookworm:do_populate_sysroot:{number:08x}", tree)
        yield store


@pytest.fixture
def composition(full_store: Store) -> Iterator[Composition]:
    names = [str(artifact.signature) for artifact in full_store.artifacts()]
    with full_store.compose(names) as made:
        yield made


@pytest.fixture(scope="module")
def unpacked(place: Path, packages: list[Path]) -> Tree:
    """All packages unpacked into one directory, by the tool that does this in Debian.

    That takes 20 s, so the snapshot is kept beside the packages, for other runs with the same ones.
    """
    archives = sorted((WORKLOAD / "debs").glob("*.deb"))
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in archives]
    key = hash_bytes(repr((stats, inspect.getsource(snapshot))).encode())
    kept = WORKLOAD / f"unpacked-{key[:16]}"
    if kept.exists():
        found: Tree = pickle.loads(kept.read_bytes())
        return found
    directory = place / "unpacked"
    directory.mkdir()
    for archive in archives:
        subprocess.run(["dpkg-deb", "--extract", archive, directory], check=True)
    found = snapshot(directory)
    subprocess.run(["rm", "-rf", directory], check=True)
    assert len(packages) == 135
    assert sum(entry[0] == "file" for entry in found.values()) > 25_000
    with contextlib.suppress(PermissionError):  # of root
        part = WORKLOAD / f"unpacked-{os.getpid()}"
        part.write_bytes(pickle.dumps(found))
        part.rename(kept)
    return found


@pytest.mark.per_user
def test_overlay_of_all_packages_equals_unpacking_them(
    composition: Composition, unpacked: Tree, place: Path
) -> None:
    assert seen_in_run(composition, place) == unpacked


@pytest.mark.skipif(not ROOT, reason="only root may mount outside of a sandbox")
def test_mounted_overlay_of_all_packages_equals_unpacking_them(
    composition: Composition, unpacked: Tree, place: Path
) -> None:
    with mounter.mounted(composition, place / "target", mounter.Strategy.OVERLAY):
        assert snapshot(place / "target") == unpacked


@pytest.mark.parametrize("strategy", [mounter.Strategy.HARDLINK, mounter.Strategy.COPY])
def test_linked_tree_of_all_packages_equals_unpacking_them(
    composition: Composition, unpacked: Tree, place: Path, strategy: mounter.Strategy
) -> None:
    with mounter.mounted(composition, place / "target", strategy) as mount:
        assert mount.strategy is strategy
        assert snapshot(place / "target") == unpacked
    assert not (place / "target").exists()


@pytest.mark.per_user
def test_compiler_builds_and_runs_a_program_of_many_libraries_in_the_sysroot(
    composition: Composition, tmp_path: Path
) -> None:
    (tmp_path / "program.cc").write_text(PROGRAM)
    script = f"cd '{tmp_path}' && {{ {BUILD}\n}} > output"

    code = mounter.run(["sh", "-c", script], {tmp_path / "sysroot": composition})

    assert code == 0
    assert (tmp_path / "output").read_text() == "sysROOT 32 d396182d boost 107400\n"


def test_store_of_all_packages_verifies(full_store: Store) -> None:
    assert list(full_store.verify()) == []
