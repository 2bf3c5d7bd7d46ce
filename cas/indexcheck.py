"""Reading all of an index, and trying to write into it, in a process of its own.

LMDB trusts its file: where bits have flipped in it, using it can end the process. So whoever has
to know lets another process do it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile

from cas.errors import CasError, StoreDamaged
from cas.format import check_format
from cas.index import Index
from cas.quoting import quoted


def index_damage(store: str, *, quick: bool = False) -> str | None:
    """Return what is wrong with the index of the store at a path, as text; None if it can be used.

    Records are not looked at; nor, if `quick`, which pages are free. Raises StoreDamaged (what is
    there is no store's, and not to be read as one), CasError, OSError.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # told of by who opens it
        check_format(os.fsencode(store))
    command = [sys.executable, "-m", "cas.indexcheck", store, *(["quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"using the index {quoted(f'{store}/index')} ends with {name}"
    if done.returncode > 0:
        raise CasError(f"cannot check the index of {quoted(store)}: {done.stderr.strip()}")
    return done.stdout.strip() or None


def _check_free_pages(index: Index, content: bytes) -> None:
    """Let all pages that are said to be free be written, in a copy: what is in use has to stay.

    Raises StoreDamaged, IndexUnavailable, OSError (no room for the copy).
    """
    with tempfile.TemporaryDirectory(prefix="cas-index-") as place:
        path = os.fsencode(place)
        index.copy(path)
        lock = os.path.join(path, b"lock")
        os.close(os.open(lock, os.O_CREAT | os.O_WRONLY, 0o600))
        with contextlib.closing(Index(path, lock)) as copy:
            copy.fill()
            with copy.read() as reader:
                if reader.read_all() != content:
                    raise StoreDamaged("pages that it says are free are not")


def _main(store: str, *, quick: bool) -> None:
    try:
        index = Index(f"{store}/index".encode(), f"{store}/lock".encode())
        with index.read() as reader:
            content = reader.read_all()
    except CasError as error:
        print(error.message)
        return
    except FileNotFoundError:
        return  # it is for others to say that there is no store
    if quick:
        return
    try:
        _check_free_pages(index, content)
    except StoreDamaged as error:
        print(f"the index {quoted(f'{store}/index')} is damaged in its list of free pages: {error}")


if __name__ == "__main__":
    _main(sys.argv[1], quick=len(sys.argv) > 2)
