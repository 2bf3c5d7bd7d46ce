"""The format of a store: creating an empty store, and checking an existing one."""

from __future__ import annotations

import contextlib
import os
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
from cas.index.network_file_systems import refuse_network
from cas.system.debug_log import debug
from cas.system.directories import open_directory
from cas.system.oserrors import adding_path
from cas.system.text import quoted

_FOR_PEOPLE = {os.fsdecode(name) for name in (COUNTS, LOG)}
"""Nothing relies on these, so their kind is not checked."""
_FILES = {*FILES, "index/data.mdb"} - _FOR_PEOPLE
_DIRECTORIES = set(DIRECTORIES) - _FOR_PEOPLE
_NEEDED = {*_DIRECTORIES, "lock"} - {"index"}
"""Every store has these. A missing index has an error of its own."""


class NoStore(CasError):
    """There is no store at a path."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"there is no store at {quoted(path)}",
            hint="create it with `cas init`, or with the first `cas put`",
        )


class StoreTooNew(StoreDamaged):
    """The store has a newer format than this program supports."""


def find_store(path: bytes, *, create: bool) -> None:
    """Check that there is a store at a path; with `create`, create a missing one.

    Raises NoStore, InputRefused, and as `check_format`.
    """
    try:
        os.stat(os.path.join(path, b"format"))
    except NotADirectoryError as error:
        where = quoted(path)
        hint = "name the directory of the store"
        raise InputRefused(f"{where} is not a directory", hint=hint) from error
    except FileNotFoundError:
        if not create:
            raise NoStore(path) from None
        make_store(path)
    check_format(path)


def make_store(path: bytes) -> None:
    """Create an empty store. The format file comes last and makes the store complete.

    Raises InputRefused, OSError.
    """
    refuse_network(path)
    os.makedirs(path, exist_ok=True)
    foreign = {os.fsdecode(name) for name in os.listdir(path)} - {*DIRECTORIES, *FILES}
    if foreign:
        raise InputRefused(
            f"{quoted(path)} is not a store and not empty (it has {quoted(min(foreign))})",
            hint="name an empty or new directory as the store",
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
    debug("created a store at %s", quoted(path))


def restore_store(path: bytes) -> None:
    """Create the missing directories and the lock of a store. Raises as `check_format`."""
    if os.path.isfile(os.path.join(path, b"format")):
        with adding_path(path):
            _check_kinds(path, complete=False)
            _make_parts(path, again=True)
    check_format(path)


def _make_parts(path: bytes, *, again: bool = False) -> bytes:
    """Create the missing directories, lock and counts of a store; return the path of the lock.

    Entries created `again` are given to the owner of the store.
    """
    with open_directory(path) as store, adding_path(store):
        fans = [f"objects/{number:02x}" for number in range(256)]
        for name in (*DIRECTORIES, *fans):
            if not os.path.lexists(os.path.join(path, name.encode())):
                with contextlib.suppress(FileExistsError):  # another process was faster
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
    """Refuse a directory that is not a store, a newer format, and network file systems.

    Raises StoreDamaged, StoreTooNew, InputRefused, OSError.
    """
    name = os.path.join(path, b"format")
    with adding_path(path):
        refuse_network(path)
        _check_kinds(path, complete=os.path.lexists(name))
    with adding_path(name), open(name, "rb") as file:
        line = file.read(200).decode(errors="replace").rstrip("\n")
    magic, _, version = FORMAT.rpartition(" ")
    store_magic, _, store_version = line.rpartition(" ")
    if store_magic != magic or not store_version.isdecimal():
        raise StoreDamaged(f"{quoted(path)} is not a store: its format file has {line!r}")
    if int(store_version) > int(version):
        raise StoreTooNew(
            f"the store {quoted(path)} has format {store_version}, newer than {version}, "
            "which this cas supports",
            hint="use a newer cas, or another store",
        )


def _check_kinds(path: bytes, *, complete: bool) -> None:
    """Refuse entries of the wrong kind, such as links and FIFOs, and missing ones if `complete`.

    Raises StoreDamaged.
    """
    kinds = ((_DIRECTORIES, stat.S_ISDIR, "directory"), (_FILES, stat.S_ISREG, "regular file"))
    for names, is_right, kind in kinds:
        for name in sorted(names):
            place = os.path.join(path, name.encode())
            try:
                mode = os.lstat(place).st_mode
            except (FileNotFoundError, NotADirectoryError):
                if complete and name in _NEEDED:
                    raise StoreDamaged(
                        f"{quoted(place)} is missing", hint="`cas init` creates an empty one"
                    ) from None
                continue  # created on demand, or reported where it is needed
            if not is_right(mode):
                hint = "no `cas` command creates that: find out what else was changed"
                raise StoreDamaged(f"{quoted(place)} is not a {kind}", hint=hint)
