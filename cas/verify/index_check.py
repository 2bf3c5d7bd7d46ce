"""Checks an index by reading all of it, and writing to a copy, in a separate process.

LMDB trusts its file: flipped bits can crash the process that uses it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import tempfile
from collections.abc import Callable
from functools import partial

from cas.errors import CasError, StoreDamaged
from cas.index.database import Index
from cas.index.format import check_format
from cas.system.signals import CRASH_SIGNALS
from cas.system.text import quoted
from cas.system.workers import Worker, WorkerEnded


def index_damage(store: str, *, quick: bool = False, records: bool = False) -> str | None:
    """Return a description of the damage of a store's index, or None if it is usable.

    With `records`, the records are decoded, too. If `quick`, the list of free pages is not checked.
    Raises StoreDamaged (not a store), CasError, OSError.
    """
    if not os.path.exists(os.path.join(store, "format")):
        return None  # opening the store reports it
    check_format(os.fsencode(store))
    index = quoted(os.path.join(store, "index"))
    try:
        (damage,) = Worker[str | None](partial(_damage, store, quick, records)).all_results()
        return damage
    except WorkerEnded as ended:
        if ended.signal in CRASH_SIGNALS:
            return f"using the index {index} ends with {signal.Signals(ended.signal).name}"
        raise CasError(f"the index {index} could not be checked: {ended}") from ended
    except (CasError, OSError) as error:
        raise CasError(f"the index {index} could not be checked: {error}") from error


def _hash(index: Index) -> bytes:
    """Return a hash of all of an index. Raises StoreDamaged, or crashes."""
    content = hashlib.blake2b()
    with index.read() as reader:
        for key, data in reader.content():
            content.update(b"%d %d " % (len(key), len(data)) + key + data)
    return content.digest()


def _check_records(index: Index) -> None:
    """Decode all records, and compare the secondary indexes. Raises StoreDamaged."""
    with index.read() as reader:
        if not reader.is_consistent([record.artifact() for record in reader.records()]):
            raise StoreDamaged("the index finds other artifacts by hash or tree than it has")


def _check_free_pages(index: Index, content: bytes) -> None:
    """Write to all free pages of a copy of the index; its content must not change.

    The copy is an unnamed file, so nothing is left of it. Raises StoreDamaged, IndexUnavailable (no
    disk space), OSError.
    """
    with tempfile.TemporaryFile() as file:
        index.copy(file.fileno())
        path = b"/proc/self/fd/%d" % file.fileno()
        with contextlib.closing(Index(path, path, directory=False)) as copy:
            copy.fill()
            if _hash(copy) != content:
                raise StoreDamaged("pages in use are marked as free")


def _damage(store: str, quick: bool, records: bool, emit: Callable[[str | None], None]) -> None:
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # LMDB prints there before it aborts
    try:
        index = Index(f"{store}/index".encode(), f"{store}/lock".encode())
        content = _hash(index)
        if records:
            _check_records(index)
    except FileNotFoundError:
        emit(None)  # opening the store reports it
        return
    except StoreDamaged as error:
        emit(error.message)
        return
    try:
        if not quick:
            _check_free_pages(index, content)
        emit(None)
    except StoreDamaged as error:
        damage = f"is damaged in its list of free pages: {error}"
        emit(f"the index {quoted(f'{store}/index')} {damage}")
