"""`cas diff -u`: patch(1) applies its output, and binary files are left out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.support import CAS, Cas, make, snapshot

_OLD = "old:do_x:12345678"
_NEW = "new:do_x:12345678"


def test_unified_diff_applies_with_patch(cas: Cas, work: Path) -> None:
    lines = [f"line {number}" for number in range(50)]
    changed = [*lines[:10], "inserted", *lines[10:30], *lines[31:], "with no newline"]
    old = {"usr/a": "\n".join(lines) + "\n", "usr/gone": "gone\n", "usr/same": "same",
           "usr/no-newline": "x", "usr/form-feed": "a\x0cb\r\n", "usr/dir/": None,
           "usr/a name": "1\n"}  # fmt: skip
    new = {"usr/a": "\n".join(changed), "usr/added": "one\ntwo\n", "usr/same": "same",
           "usr/no-newline": "x\n", "usr/form-feed": "a\x0cc\r\n", "usr/dir/": None,
           "usr/a name": "2\n"}  # fmt: skip
    cas("put", _OLD, make(work / "old-tree", old))
    cas("put", _NEW, make(work / "new-tree", new))
    shutil.copytree(work / "old-tree", work / "patched")

    with open(work / "diff", "wb") as file:
        subprocess.run(
            [CAS, "--store", cas.store, "diff", "-u", "old", "new"], stdout=file, check=True
        )
    subprocess.run(["patch", "-s", "-p1", "-d", "patched", "-i", "../diff"], cwd=work, check=True)

    assert snapshot(work / "patched") == snapshot(work / "new-tree")
    assert cas("diff", "-u", "old", work / "old-tree").stdout == ""
    assert "-line 30\n" in cas("diff", "--unified", work / "old-tree", "new").stdout
    documents = {one["path"]: one["unified"] for one in cas.json("diff", "-u", "old", "new")}
    assert documents["usr/added"] == [
        "--- /dev/null",
        "+++ b/usr/added",
        "@@ -0,0 +1,2 @@",
        "+one",
        "+two",
    ]
    assert all(one["unified"] is None for one in cas.json("diff", "old", "new"))


@pytest.mark.parametrize(
    "content",
    [b"\0", b"\xff", b"\x1b[31mred", "\x9b31m".encode(), b"x" * 1_100_000, b"x\n" * 10_001,
     b"good\rbad\n", "\u202e".encode()],
)  # fmt: skip
def test_diff_of_binary_or_huge_files_is_not_line_by_line(
    cas: Cas, work: Path, content: bytes
) -> None:
    for name, data in ((_OLD, b"text\n"), (_NEW, content)):
        tree = make(work / name[:3], {"link@": name, "exec*" if name == _OLD else "exec": "x"})
        (tree / "file").write_bytes(data)
        cas("put", name, tree)

    assert cas("diff", "-u", "old", "new").stdout == cas("diff", "old", "new").stdout
    assert [one["unified"] for one in cas.json("diff", "-u", "old", "new")] == [None] * 3


def test_diff_prints_letters_outside_the_locale(cas: Cas, work: Path) -> None:
    cas("put", _OLD, make(work / "old-tree", {"naïve → x": "→\n"}))
    cas("put", _NEW, make(work / "new-tree", {"naïve → x": "«\n"}))
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = subprocess.run(
            [CAS, "--store", cas.store, "diff", "-u", "old", "new"],
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"\n-" in done.stdout


def test_diff_shows_the_executable_bit(cas: Cas, work: Path) -> None:
    cas("put", _OLD, make(work / "old-tree", {"both": "1\n", "bit": "x"}))
    cas("put", _NEW, make(work / "new-tree", {"both*": "2\n", "bit*": "x"}))

    text = cas("diff", "-u", "old", "new").stdout

    assert "both: content and executable bit\n--- a/both\n" in text
    assert "bit: executable bit\n" in text
