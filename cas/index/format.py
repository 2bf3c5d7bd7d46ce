"""The format of a store: making an empty one, and knowing one that is there."""

from __future__ import annotations

import contextlib
import os
import re
import stat

from cas.content.stamp import mark_time_support
from cas.disk.counters import NAME as COUNTS
from cas.disk.group_sharing import give_to_owner, make_subdirectory, share_with_group
from cas.disk.layout import DIRECTORIES, FILES, FORMAT
from cas.disk.log import DIRECTORY as LOG
from cas.disk.reserve import fill_reserve
from cas.disk.scratch import replace_file
from cas.errors import CasError, InputRefused, StoreDamaged
from cas.index.database import Index
from cas.system.directories import open_directory
from cas.system.oserrors import adding_path
from cas.system.text import quoted

_FOR_PEOPLE = {os.fsdecode(name) for name in (COUNTS, LOG)}
"""Nothing relies on these, so they may be anything."""
_FILES = {*FILES, "index/data.mdb"} - _FOR_PEOPLE
_DIRECTORIES = set(DIRECTORIES) - _FOR_PEOPLE
_NEEDED = {*_DIRECTORIES, "lock"} - {"index"}
"""What every store has; of the index something else is said."""


class NoStore(CasError):
    """There is no store at a path, because nothing was put there yet."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"there is no store at {quoted(path)}",
            hint="the first `cas put` makes it, or `cas init`",
        )


class StoreTooNew(StoreDamaged):
    """The store was written by a version of this program that does more than this one."""


def find_store(path: bytes, *, create: bool) -> None:
    """Make sure that there is a store at a path; with `create`, make it if nothing is there.

    Raises NoStore, InputRefused, and what `check_format` raises.
    """
    try:
        os.stat(os.path.join(path, b"format"))
    except NotADirectoryError as error:
        where = quoted(path)
        hint = "give the store's directory"
        raise InputRefused(f"{where} is not a directory", hint=hint) from error
    except FileNotFoundError:
        if not create:
            raise NoStore(path) from None
        make_store(path)
    check_format(path)


def make_store(path: bytes) -> None:
    """Make an empty store, on the disk. The format file comes last: with it, the store is whole.

    Raises InputRefused, OSError.
    """
    refuse_network(path)
    os.makedirs(path, exist_ok=True)
    foreign = {os.fsdecode(name) for name in os.listdir(path)} - {*DIRECTORIES, *FILES}
    if foreign:
        raise InputRefused(
            f"{quoted(path)} is no store and not empty (it has {quoted(min(foreign))})",
            hint="give an empty or a new directory as the store",
        )
    lock = _make_parts(path)
    index = Index(os.path.join(path, b"index"), lock, create=True)
    index.sync()
    index.close()
    with open_directory(path) as fd:
        fill_reserve(fd)
    replace_file(os.path.realpath(path), b"format", FORMAT + "\n", durable=True)
    with open(os.path.join(path, b"format"), "rb") as file:
        mark_time_support(file.fileno())


def restore_store(path: bytes) -> None:
    """Make what a store at a path lacks of directories, and its lock. Raises as `check_format`."""
    if os.path.isfile(os.path.join(path, b"format")):
        with adding_path(path):
            _check_kinds(path, complete=False)
            _make_parts(path, again=True)
    check_format(path)


def _make_parts(path: bytes, *, again: bool = False) -> bytes:
    """Make a store's directories, lock and counts, as far as they are missing; return the lock.

    What is made `again` belongs to whom the store belongs.
    """
    with open_directory(path) as store, adding_path(store):
        fans = [f"objects/{number:02x}" for number in range(256)]
        for name in (*DIRECTORIES, *fans):
            if not os.path.lexists(os.path.join(path, name.encode())):
                with contextlib.suppress(FileExistsError):  # somebody was faster
                    make_subdirectory(name.encode(), store)
                    if again:
                        give_to_owner(name.encode(), store)
        for file in (b"lock", COUNTS):
            if not os.path.lexists(os.path.join(path, file)):
                fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=store)
                share_with_group(fd, store)
                os.close(fd)
                if again:
                    give_to_owner(file, store)
    return os.path.join(path, b"lock")


def check_format(path: bytes) -> None:
    """Refuse a directory that is no store, or one of a later format, or of several machines.

    Raises StoreDamaged, StoreTooNew, InputRefused, OSError.
    """
    name = os.path.join(path, b"format")
    with adding_path(path):
        refuse_network(path)
        _check_kinds(path, complete=os.path.lexists(name))
    with adding_path(name), open(name, "rb") as file:
        line = file.read(200).decode(errors="replace").rstrip("\n")
    magic, _, version = FORMAT.rpartition(" ")
    found_magic, _, found = line.rpartition(" ")
    if found_magic != magic or not found.isdecimal():
        raise StoreDamaged(f"{quoted(path)} is no store: its format file says {line!r}")
    if int(found) > int(version):
        raise StoreTooNew(
            f"the store {quoted(path)} has format {found}; this cas knows formats up to {version}",
            hint="use a newer cas, or another store",
        )


def _check_kinds(path: bytes, *, complete: bool) -> None:
    """Refuse what a link would lead out of, or a FIFO would wait for; if `complete`, a gap too.

    Raises StoreDamaged.
    """
    kinds = ((_DIRECTORIES, stat.S_ISDIR, "directory"), (_FILES, stat.S_ISREG, "regular file"))
    for names, is_right, what in kinds:
        for name in sorted(names):
            place = os.path.join(path, name.encode())
            try:
                mode = os.lstat(place).st_mode
            except (FileNotFoundError, NotADirectoryError):
                if complete and name in _NEEDED:
                    raise StoreDamaged(
                        f"{quoted(place)} is missing", hint="`cas init` makes it again, empty"
                    ) from None
                continue  # some come later, others are told of where they are needed
            if not is_right(mode):
                hint = "no command makes that: look who did, and what else is changed"
                raise StoreDamaged(f"{quoted(place)} is no {what}", hint=hint)


_SHARED_BY_MACHINES = re.compile(
    "afs|beegfs|ceph|cifs|coda|gfs2|gpfs|lustre|ncpfs|nfs4?|ocfs2|orangefs|smb3|smbfs"
    r"|fuse\.(ceph|ceph-fuse|gcsfuse|glusterfs|juicefs|mfs|rclone|s3fs|sshfs)"
)
"""As proc(5) calls them in mountinfo."""


def refuse_network(path: bytes) -> None:
    """Refuse a place for a store that other machines may use at the same time.

    Locks, boots and the memory that LMDB maps (mmap(2)) are those of one kernel. A place that is
    not there yet is one of its parent. Raises InputRefused, OSError.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    kind = _file_system(os.stat(path).st_dev)
    if kind is not None and _SHARED_BY_MACHINES.fullmatch(kind):
        raise InputRefused(
            f"{quoted(path)} is on a network file system ({kind}), where no store can be",
            hint="give a directory on a disk of this machine: `--store`, or $CAS_STORE",
        )


def _file_system(device: int) -> str | None:
    """Return the kind of a mounted file system without a disk; None if it has one."""
    if os.major(device) != 0:
        return None
    number = f"0:{os.minor(device)}"
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        for line in file:
            fields, _, more = line.partition(" - ")
            if fields.split(" ")[2] == number:
                return more.split(" ")[0]
    return None
