"""I/O errors in single system calls: reported with a path, harmless, and repeatable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.actions import ACTIONS, CARE, Action, Bench, cases
from tests.helpers.injection import Outcome, Prepared
from tests.helpers.support import ROOT, Cas

_CHANGING = (
    "write", "pwrite64", "pwritev", "writev", "linkat", "link", "rename", "renameat", "renameat2",
    "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "symlinkat", "fchmod", "fchmodat", "chmod",
    "ftruncate", "fallocate", "fsync", "fdatasync", "msync", "utimensat", "copy_file_range",
)  # fmt: skip
_READING = (
    "read", "pread64", "preadv", "openat", "newfstatat", "statx", "getdents64", "flock", "readlink",
    "readlinkat", "flistxattr", "llistxattr", "statfs", "fstatfs",
)  # fmt: skip
_MOUNTING = (
    "fsopen", "fsconfig", "fsmount", "move_mount", "mount", "umount2", "mount_setattr",
    "open_tree", "unshare",
)  # fmt: skip
_SENTENCE = re.compile(r"^cas: \S.*", re.MULTILINE)


@pytest.fixture
def run(cas: Cas, tmp_path: Path) -> Prepared:
    return Prepared(cas, tmp_path)


def _check_told(action: Action, done: Outcome, work: Path) -> None:
    """Assert that the command reports an error with a path, and ends with its exit code."""
    assert "Traceback" not in done.errors, done
    assert "Exception ignored" not in done.errors, done
    if done.code == 0:
        return
    if action.name == "verify" and done.code == 6:  # a finding, with its path
        assert re.search(r"^content: \S+ cannot be read", done.output, re.MULTILINE), done
        return
    codes = (125,) if action.name == "run" else (1, 5) if "overlay" in str(action) else (1,)
    assert done.code in codes, done
    said = _SENTENCE.search(done.errors)
    assert said is not None, done
    if "pipe:" in "".join(done.met):  # between the processes of a run
        return
    places = (str(work), "/proc/", "standard output", "cannot set up the sandbox: ")
    assert any(place in said[0] for place in places), done


def _meet(cas: Cas, run: Prepared, name: str, calls: tuple[str, ...]) -> None:
    """Do an action once for each of its calls, and let that fail."""
    action, met = (ACTIONS | CARE)[name], 0
    for done in Bench(cas, run).meet(action, calls, "error=EIO"):
        _check_told(action, done, cas.directory)
        met += len(done.met)
    assert met > 0


_READERS = (
    "put", "rm", "gc", "mount by hardlink", "umount by hardlink", "pin", "sync", "verify",
    "rebuild-index",
)  # fmt: skip
_ACTIONS = [name for name in ACTIONS if ROOT or "overlay" not in name]


@pytest.mark.parametrize("name", cases(["run", *(name for name in _ACTIONS if "overlay" in name)]))
def test_io_error_in_a_mount_leaves_the_old_or_the_new(
    cas: Cas, run: Prepared, work: Path, name: str
) -> None:
    _meet(cas, run, name, _MOUNTING)


@pytest.mark.parametrize("name", cases([*_ACTIONS, *CARE]))
def test_io_error_in_a_change_is_reported_and_damages_nothing(
    cas: Cas, run: Prepared, work: Path, name: str
) -> None:
    _meet(cas, run, name, _CHANGING)


@pytest.mark.parametrize("name", _READERS)
def test_io_error_in_a_read_is_reported_and_damages_nothing(
    cas: Cas, run: Prepared, work: Path, name: str
) -> None:
    _meet(cas, run, name, _READING)
