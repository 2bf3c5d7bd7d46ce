"""Reading all of an index, and trying to write into it, in a process of its own.

LMDB trusts its file: where bits have flipped in it, using it can end the process. So whoever has
to know lets another process do it.
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
    """Return what is wrong with the index of the store at a path, as text; None if it can be used.

    What the records say is looked at with `records` only; and if `quick`, not even which pages are
    free. Raises StoreDamaged (what is there is no store's, and not to be read as one), CasError,
    OSError.
    """
    if not os.path.exists(os.path.join(store, "format")):
        return None  # told of by who opens it
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
    """Read all of an index. Raises StoreDamaged, or ends the process."""
    content = hashlib.blake2b()
    with index.read() as reader:
        for key, data in reader.content():
            content.update(b"%d %d " % (len(key), len(data)) + key + data)
    return content.digest()


def _check_records(index: Index) -> None:
    """Decode all records, and compare how they are found. Raises StoreDamaged."""
    with index.read() as reader:
        if not reader.is_consistent([record.artifact() for record in reader.records()]):
            raise StoreDamaged("the index finds other artifacts by hash or tree than it has")


def _check_free_pages(index: Index, content: bytes) -> None:
    """Let all pages that are said to be free be written, in a copy: what is in use has to stay.

    The copy has no name, so nothing can stay of it. Raises StoreDamaged, IndexUnavailable (no room
    for it), OSError.
    """
    with tempfile.TemporaryFile() as file:
        index.copy(file.fileno())
        path = b"/proc/self/fd/%d" % file.fileno()
        with contextlib.closing(Index(path, path, directory=False)) as copy:
            copy.fill()
            if _hash(copy) != content:
                raise StoreDamaged("pages that it says are free are not")


def _damage(store: str, quick: bool, records: bool, give: Callable[[str | None], None]) -> None:
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # where LMDB says why it ends the process
    try:
        index = Index(f"{store}/index".encode(), f"{store}/lock".encode())
        content = _hash(index)
        if records:
            _check_records(index)
    except FileNotFoundError:
        give(None)  # it is for others to say that there is no store
        return
    except StoreDamaged as error:
        give(error.message)
        return
    try:
        if not quick:
            _check_free_pages(index, content)
        give(None)
    except StoreDamaged as error:
        what = f"is damaged in its list of free pages: {error}"
        give(f"the index {quoted(f'{store}/index')} {what}")
