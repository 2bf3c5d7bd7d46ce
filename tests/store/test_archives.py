"""Tar archives: stored as tar(1) would extract them, or refused with nothing stored."""

from __future__ import annotations

import contextlib
import gzip
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from cas.errors import ExitCode
from cas.model.manifest import Manifest
from cas.put.tar_reader import ArchiveRefused
from cas.store import Store
from tests.helpers.archives import archive, compressed, directory, hardlink, member, symlink, zstd
from tests.helpers.hostile import FUZZ
from tests.helpers.support import Cas, make, objects_of, snapshot, sound, tidy

ID = "zlib:do_populate_sysroot:12345678"
SOUND = [
    directory("usr"),
    member("usr/a.h", b"int a;\n"),
    member("usr/tool", b"#!/bin/sh\n", mode=0o755),
    symlink("usr/link", "/etc/../outside"),
    hardlink("usr/same.h", "usr/a.h"),
]

PACK: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes, "tar.gz": gzip.compress, "tar.zst": compressed,
}  # fmt: skip


def odd_tree(root: Path) -> Path:
    """Make a tree whose entries need special headers in an archive."""
    make(root, {
        "plain": "text", "tool*": "#!/bin/sh\n", "empty/": None, "empty-file": "",
        "link@": "../../somewhere", "d" * 120 + "/" + "f" * 200: "long name",
        "long@": "t" * 300, "with space and ü": "odd",
    })  # fmt: skip
    (root / os.fsdecode(b"not-\xff-utf-8")).write_text("odd bytes")
    os.link(root / "plain", root / "same")
    with (root / "sparse").open("wb") as file:
        file.truncate(3_000_000)
        for offset in range(0, 3_000_000, 100_000):  # more parts than a first header has
            file.seek(offset)
            file.write(b"part")
    return root


@pytest.mark.per_user
@pytest.mark.parametrize("options", [
    ["--format=gnu"], ["--format=posix"], ["--format=gnu", "-S"],
    ["--format=posix", "-S", "--sparse-version=0.0"],
    ["--format=posix", "-S", "--sparse-version=0.1"],
    ["--format=posix", "-S", "--sparse-version=1.0"],
])  # fmt: skip
@pytest.mark.parametrize("end", PACK)
def test_archive_is_stored_as_its_directory(
    tmp_path: Path, cas: Cas, options: list[str], end: str
) -> None:
    tree = odd_tree(tmp_path / "tree")
    packed = subprocess.run(
        ["tar", "-c", *options, "-C", tree, "."], capture_output=True, check=True
    ).stdout
    path = tmp_path / f"tree.{end}"
    path.write_bytes(PACK[end](packed))
    expected = cas.json("put", "a:t:11111111", tree)
    stored = cas.json("put", ID, path)
    assert (stored["tree"], stored["files"], stored["bytes"], stored["new_bytes"]) == (
        expected["tree"], expected["files"], expected["bytes"], 0,
    )  # fmt: skip
    sound(cas.store)


def test_contents_only_in_an_archive_are_stored(tmp_path: Path, cas: Cas) -> None:
    path = tmp_path / "tree.tar"
    path.write_bytes(archive([*SOUND, member("large", bytes(range(256)) * 10_000)]))
    assert cas.json("put", ID, path)["new_bytes"] == 7 + 10 + 2_560_000
    with Store(cas.store) as store:
        layer = store.layer_path(store.resolve("zlib"))
    found = snapshot(layer)
    assert found[b"usr/same.h"] == found[b"usr/a.h"]
    assert found[b"usr/link"] == ("symlink", b"/etc/../outside")
    assert found[b"usr/tool"][1]
    sound(cas.store)
    tidy(cas.store)


@pytest.mark.per_user
def test_archive_means_what_tar_extracts(tmp_path: Path, cas: Cas) -> None:
    path = tmp_path / "tree.tar"
    members = [
        member("./deep/er/file", b"without directories before it"),
        directory("deep"),
        member("twice", b"first"), symlink("twice", "then"), member("twice", b"last"),
    ]  # fmt: skip
    path.write_bytes(archive(members))
    cas("put", ID, path)
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-x", "-f", path, "-C", tmp_path / "unpacked"], check=True)
    assert cas("diff", "zlib", tmp_path / "unpacked").stdout == ""
    assert cas.json("show", "zlib")["files"] == 2


def test_archive_losses_are_counted(tmp_path: Path, cas: Cas) -> None:
    path = tmp_path / "tree.tar"
    attribute = {"SCHILY.xattr.user.note": "x"}
    members = [
        member("setuid", mode=0o4755, uid=os.geteuid()),
        member("attribute", uid=os.geteuid(), pax_headers=attribute),
        member("another's", uid=os.geteuid() + 1),
    ]
    path.write_bytes(archive(members, tarfile.PAX_FORMAT))
    cas("put", ID, path)
    dropped = cas.json("show", "zlib")["dropped"]
    assert dropped == {"set_id_bits": 1, "xattrs": 1, "owners": 1}


REFUSED = {
    "absolute": ([member("/etc/passwd", b"x")], "absolute"),
    "above": ([member("usr/../../etc/passwd", b"x")], "`..`"),
    "through a link": ([symlink("usr", "/etc"), member("usr/passwd", b"x")], "not a directory"),
    "below a file": ([member("usr", b"x"), member("usr/b", b"x")], "not a directory"),
    "file over directory": ([directory("usr"), member("usr", b"x")], "twice"),
    "directory over file": ([member("usr", b"x"), directory("usr")], "twice"),
    "hard link out": ([hardlink("usr", "/etc/passwd")], "absolute"),
    "hard link above": ([hardlink("usr", "../passwd")], "`..`"),
    "hard link to nothing": ([hardlink("b", "a"), member("a", b"x")], "not an earlier file"),
    "hard link to a directory": ([directory("a"), hardlink("b", "a")], "not an earlier file"),
    "device": ([member("null", type=tarfile.CHRTYPE)], "character device"),
    "disk": ([member("sda", type=tarfile.BLKTYPE)], "block device"),
    "fifo": ([member("pipe", type=tarfile.FIFOTYPE)], "FIFO"),
    "unknown": ([member("odd", type=b"Z")], "unknown type"),
    "long name": ([member("n" * 256)], "file systems do not allow"),
    "long target": ([symlink("l", "t" * 4096)], "symbolic link"),
    "no target": ([symlink("l", "")], "symbolic link"),
    "root is a file": ([member(".", b"x")], "the root of the tree"),
    "overlayfs": (
        [member("x", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})], "overlayfs"
    ),
    "overlayfs root": (
        [member("./", type=tarfile.DIRTYPE, pax_headers={"SCHILY.xattr.user.overlay.opaque": ""})],
        "overlayfs",
    ),
    "deep": ([member("a/" * 300 + "b")], "file systems do not allow"),
    "very deep": (
        [member("x", pax_headers={"path": "a/" * 15_000 + "b"})],
        "file systems do not allow",
    ),
    "size of letters": ([member("x", b"content", pax_headers={"size": "1_0"})], "the size of x"),
    "named like a directory": ([member("x", pax_headers={"path": "a/"})], "name of a directory"),
    "more than the free space": (
        [member("x", b"0\n".ljust(512, b"\0"), pax_headers={
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
            "GNU.sparse.realsize": str(1 << 62), "GNU.sparse.name": "huge",
        })],
        "free disk space",
    ),
    "zero in a name": ([member("x", pax_headers={"path": "a\0b"})], "file systems do not allow"),
    "absurd headers": ([member("x", pax_headers={"comment": "y" * 5_000_000})], "too large"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_hostile_member_is_named_and_nothing_stored(tmp_path: Path, cas: Cas, what: str) -> None:
    members, reason = REFUSED[what]
    path = tmp_path / "hostile.tar.zst"
    path.write_bytes(compressed(archive([member("before", b"it"), *members], tarfile.PAX_FORMAT)))
    said = cas("put", ID, path, code=ExitCode.REFUSED).stderr
    assert reason in said
    assert "hostile.tar.zst" in said
    if what in ("absolute", "above", "through a link", "device", "fifo", "hard link to nothing"):
        assert members[-1][0].name.lstrip("/") in said or "link" in what
    assert objects_of(cas.store) == []
    assert cas("ls", "--json").stdout.strip() == "[]"


@pytest.mark.parametrize("end", PACK)
def test_truncated_archive_is_refused(tmp_path: Path, end: str) -> None:
    whole = archive([*SOUND, member("last", os.urandom(3000))])
    data = PACK[end](whole)
    path = tmp_path / f"cut.{end}"
    ended = whole.rstrip(b"\0")  # zeros that end an archive may be fewer
    most = len(ended) if end == "tar" else len(data) - 1
    with Store(tmp_path / "store", create=True) as store:
        for length in sorted({*range(0, most, 97), *range(0, most, 512), most}):
            path.write_bytes(data[:length])
            with pytest.raises(ArchiveRefused):
                store.put(ID, path)
        assert objects_of(store.path) == []
        path.write_bytes(data)
        store.put(ID, path)


@settings(max_examples=FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=st.lists(st.tuples(st.integers(0, 12_000), st.binary(min_size=1, max_size=12))),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_mutated_archive_is_stored_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], format: int
) -> None:
    place = tmp_path_factory.mktemp("fuzz")
    data = bytearray(archive([*SOUND, symlink("l" * 150, "t" * 150)], format))
    for offset, new in changes:
        data[offset : offset + len(new)] = new
        _mend_checksums(data)
    (place / "fuzzed.tar").write_bytes(data)
    with Store(place / "store", create=True) as store:
        with contextlib.suppress(ArchiveRefused):
            stored = store.put(ID, place / "fuzzed.tar").artifact
            manifest = store.manifest(stored)
            assert Manifest.decode(manifest.encode()) == manifest
        assert list(store.verify()) == []


def _mend_checksums(data: bytearray) -> None:
    """Give every block that a header may be the checksum of one."""
    for start in range(0, len(data) - 511, 512):
        block = data[start : start + 512]
        if any(block):
            block[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % (sum(block) & 0o777777)


def test_bomb_of_headers_takes_little_memory(tmp_path: Path, cas: Cas) -> None:
    """A list of parts of a sparse file as long as one likes compresses to nothing."""
    header = bytearray(archive([member("bomb")])[:512])
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[482] = 1  # there is more
    more = bytearray(512)
    more[504] = 1
    _mend_checksums(header)
    path = tmp_path / "bomb.tar.zst"
    with zstd.open(path, "wb") as file:
        file.write(bytes(header))
        for _ in range(200):
            file.write(bytes(more) * 10_000)  # 1 GB
    said = cas("put", ID, path, code=ExitCode.REFUSED).stderr
    assert "too large" in said


def test_quadratic_headers_are_refused_at_once(tmp_path: Path, cas: Cas) -> None:
    for name, text in {"digits": b"1" * 100_000, "parts": b"2 " * 40_000 + b"x=y\n"}.items():
        header, _ = member("P", text, type=tarfile.XHDTYPE)
        path = tmp_path / f"{name}.tar"
        path.write_bytes(header.tobuf() + text + bytes(-len(text) % 512) + archive(SOUND))
        assert "too large" in cas("put", ID, path, code=ExitCode.REFUSED).stderr


def test_long_name_of_any_header_format_is_read_like_tar(tmp_path: Path, cas: Cas) -> None:
    tree = make(tmp_path / "tree", {"file": "content"})
    path = tmp_path / "incremental.tar"
    subprocess.run(["tar", "-G", "--format=gnu", "-C", tree, "-cf", path, "file"], check=True)
    cas("put", ID, path)
    assert cas("files", "zlib").stdout.split()[-1] == "file"


def test_file_that_is_not_an_archive_is_refused(tmp_path: Path, cas: Cas) -> None:
    (tmp_path / "text.tar").write_text("no archive\n" * 100)
    (tmp_path / "text.tar.zst").write_text("no archive\n")
    os.mkfifo(tmp_path / "fifo.tar")
    (tmp_path / "text.txt").write_text("no archive\n")
    for name, reason in {
        "text.tar": "is damaged, or not a tar archive",
        "text.tar.zst": "is damaged, or not a tar archive",
        "text.txt": "is not a directory",
        "fifo.tar": "cannot be read: it is not a regular file",
        "absent.tar": "cannot be read: No such file",
    }.items():
        assert reason in cas("put", ID, tmp_path / name, code=ExitCode.REFUSED).stderr
    said = cas("put", "--move", ID, tmp_path / "text.tar", code=ExitCode.REFUSED).stderr
    assert "archive" in said
    assert (tmp_path / "text.tar").exists()


def test_missing_zstd_extra_is_named(tmp_path: Path, cas: Cas) -> None:
    (tmp_path / "tree.tar.zst").write_bytes(compressed(archive(SOUND)))
    absent = tmp_path / "without/backports/zstd"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ImportError")
    (absent.parent / "__init__.py").touch()
    without: Any = Cas(cas.store, cas.directory, ("env", f"PYTHONPATH={tmp_path / 'without'}"))
    said = without("put", ID, tmp_path / "tree.tar.zst", code=ExitCode.FAILURE).stderr
    assert "sysroot-cas[zstd]" in said
