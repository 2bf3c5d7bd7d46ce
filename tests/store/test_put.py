"""Trees in a put: properties kept, dropped and refused; a refusal leaves no trace."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cas.errors import CasError, InputRefused
from cas.store import Store
from cas.system.directories import DIRECTORY_FLAGS, DirCursor, open_directory, walk
from tests.helpers.running import strace
from tests.helpers.support import CAS, ROOT, Cas, make, objects_of, snapshot

pytestmark = pytest.mark.per_user

ID = "a:t:12345678"


def _layer(store: Store, name: str = ID) -> Path:
    return Path(os.fsdecode(store.layer_path(store.resolve(name))))


def test_modes_owner_and_times_are_normalised(store: Store, work: Path) -> None:
    tree = make(work / "tree", {"plain": "1", "tool*": "1", "dir/": None, "dir/deep/": None})
    (tree / "plain").chmod(0o600)
    (tree / "tool").chmod(0o4711)
    (tree / "dir").chmod(0o700)
    os.link(tree / "plain", tree / "dir/second")
    os.setxattr(tree / "plain", "user.note", b"x")

    done = store.put(ID, tree)

    layer = _layer(store)
    modes = {
        str(path.relative_to(layer)): stat.S_IMODE(path.stat().st_mode) for path in layer.rglob("*")
    }
    assert modes == {"plain": 0o444, "tool": 0o555, "dir": 0o755, "dir/deep": 0o755,
                     "dir/second": 0o444}  # fmt: skip
    assert snapshot(layer) == snapshot(tree)
    # The same bytes with and without the executable bit are two objects: links share modes.
    assert len(objects_of(store.path)) == 2
    assert (done.artifact.dropped.set_id_bits, done.artifact.dropped.xattrs) == (1, 2)
    assert os.listxattr(layer / "plain") == []


def test_content_keeps_the_time_when_it_was_first_stored(store: Store, work: Path) -> None:
    tree = make(work / "tree", {"same": "1", "changing": "1"})
    store.put(ID, tree)
    before = (_layer(store) / "same").stat().st_mtime_ns
    make(tree, {"same": "1", "changing": "2"})

    store.put("a:t:87654321", tree)

    layer = _layer(store, "8765")
    assert (layer / "same").stat().st_mtime_ns == before
    assert (layer / "changing").stat().st_mtime_ns >= before


def test_names_and_links_of_any_bytes_round_trip(store: Store, work: Path) -> None:
    tree = os.fsencode(work / "tree")
    os.mkdir(tree)
    names = [b"new\nline", b"co:lon", b"com,ma", b"back\\slash", b"\xff\x80", b"x" * 255, b" ",
             b"-dash", b"'\"$`*?[", b"\x01", "ß".encode()]  # fmt: skip
    for name in names:
        with open(os.path.join(tree, name), "wb") as file:
            file.write(name)
        os.mkdir(os.path.join(tree, b"dir-" + name[:200]))
    for number, target in enumerate((b"nowhere", b"/etc/passwd", b"loop2", b"../..", b"\xff\n")):
        os.symlink(target, os.path.join(tree, b"link%d" % number))
    os.symlink(b"loop2", os.path.join(tree, b"loop1"))
    os.symlink(b"loop1", os.path.join(tree, b"loop2"))

    store.put(ID, tree)

    assert snapshot(_layer(store)) == snapshot(tree)
    assert list(store.verify()) == []


def test_paths_longer_than_path_max_round_trip(store: Store, work: Path) -> None:
    name = b"d" * 100
    fds = [os.open(work, DIRECTORY_FLAGS)]
    os.mkdir(b"tree", dir_fd=fds[0])
    fds.append(os.open(b"tree", DIRECTORY_FLAGS, dir_fd=fds[0]))
    for _ in range(60):
        os.mkdir(name, dir_fd=fds[-1])
        fds.append(os.open(name, DIRECTORY_FLAGS, dir_fd=fds[-1]))
    os.close(os.open(b"leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fds[-1]))
    for fd in fds:
        os.close(fd)
    deepest = b"/".join([name] * 60) + b"/leaf"

    store.put(ID, work / "tree")

    layer = os.open(_layer(store), DIRECTORY_FLAGS)
    try:
        assert [node.path for node in walk(layer)][-1] == deepest
        with DirCursor(layer) as cursor:
            assert os.stat(b"leaf", dir_fd=cursor.at(deepest[:-5])).st_size == 0
    finally:
        os.close(layer)
    assert list(store.verify()) == []
    subprocess.run(["rm", "-rf", work / "tree", _layer(store)], check=True)


def test_more_equal_files_than_an_inode_may_have_links(store: Store, work: Path) -> None:
    count = 66_000  # ext4 ends at 65,000
    tree = make(work / "tree", {"a/": None, "b/": None})
    for number in range(count):
        (tree / ("a" if number % 2 else "b") / str(number)).touch()

    done = store.put(ID, tree)

    assert done.artifact.files == count
    layer = _layer(store)
    assert sum(len(files) for _, _, files in os.walk(layer)) == count
    assert len({path.stat().st_mtime_ns for path in (layer / "a").iterdir()}) == 1


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "overlay", "overlay-dir", "root"])
def test_unstorable_file_is_refused_with_its_path(cas: Cas, work: Path, kind: str) -> None:
    tree = make(work / "tree", {"before": "content", "sub/odd/": None, "zzz": "more"})
    odd = tree / "sub/odd/thing"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server, open_directory(os.fsencode(odd.parent)) as fd:
            server.bind(f"/proc/self/fd/{fd}/thing")  # the path itself is too long for bind(2)
    elif kind == "device":
        if not ROOT:
            pytest.skip("only root makes devices")
        os.mknod(odd, stat.S_IFCHR, 0)
    else:
        odd = {"overlay": odd, "overlay-dir": odd.parent, "root": tree}[kind]
        if kind == "overlay":
            odd.touch()
        os.setxattr(odd, "user.overlay.opaque", b"y")

    refused = cas("put", ID, tree, code=8)

    assert str(odd) in refused.stderr
    assert objects_of(cas.store) == []
    assert os.listdir(cas.store / "layers") == os.listdir(cas.store / "tmp") == []
    cas("has", ID, code=3)


def test_unreadable_file_is_named_and_nothing_is_stored(cas: Cas, work: Path) -> None:
    tree = make(work / "tree", {"before": "content", "sub/secret": "x"})
    (tree / "sub/secret").chmod(0)
    if ROOT:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
        os.chown(tree / "sub/secret", 4242, 4242)
    else:
        command = []
    put: list[str | Path] = [CAS, "--store", cas.store, "put", ID, tree]
    done = subprocess.run([*command, *put], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert f"cannot store {tree}/sub/secret: Permission denied" in done.stderr
    assert objects_of(cas.store) == []


@pytest.mark.parametrize("tree", ["missing", "file", "store", "store/objects", "."])
def test_unfit_tree_is_refused(cas: Cas, work: Path, tree: str) -> None:
    make(work / "good", {"a": "b"})
    cas("put", "b:t:12345678", "good")
    (work / "file").touch()

    assert str(work) in cas("put", ID, tree, code=8).stderr


def test_changing_file_is_named(cas: Cas, work: Path) -> None:
    """strace stops the put after the file was opened, and the test writes to the file then."""
    tree = make(work / "tree", {"a/first": "content", "changing": "x" * 3_000_000})
    report = work / "trace"
    os.mkfifo(report)
    stop = "inject=preadv,preadv2:signal=SIGSTOP:when=1"
    traced = strace("trace=preadv,preadv2", stop, log=report)
    command: list[str | Path] = [*traced, CAS, "--store", cas.store, "put", ID, tree]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        with report.open() as trace:
            for line in trace:
                if "stopped by SIGSTOP" in line:
                    pid = int(line.split()[0])
                    with (tree / "changing").open("r+") as file:
                        file.write("y")
                    os.kill(pid, signal.SIGCONT)
        error = process.communicate()[1]

    assert process.returncode == 8
    assert f"{tree}/changing changed while it was read" in error
    assert objects_of(cas.store) == []


def test_full_disk_fails_a_put_and_loses_nothing(store: Store, work: Path) -> None:
    """A limit on the size of files stands for the end of the disk: write(2) fails half way."""
    store.put(ID, make(work / "small", {"a": "b"}))
    big = make(work / "big", {"first": "1", "zbig": "x" * 1_500_000})
    code = (
        "import resource, signal, sys, cas\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "store = cas.Store(sys.argv[1])\n"
        "try: store.put('b:t:12345678', sys.argv[2])\n"
        "except cas.CasError as error: print(error, error.exit_code); sys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, store.path, big], capture_output=True, text=True, check=False
    )

    assert done.returncode == 3, done.stderr
    assert "zbig: File too large 1" in done.stdout
    assert len(objects_of(store.path)) == 1
    assert os.listdir(os.path.join(store.path, b"tmp")) == []
    store.put("b:t:12345678", big)
    assert list(store.verify()) == []


def test_python_interface_raises_cas_errors(store: Store, work: Path) -> None:
    with pytest.raises(InputRefused):
        store.put(ID, work / "missing")
    with pytest.raises(CasError):
        store.resolve("missing")
