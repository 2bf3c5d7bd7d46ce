"""Reading all of an index, and trying to write into it, in a process of its own.

LMDB trusts its file: where bits have flipped in it, using it can end the process. So whoever has
to know lets another process do it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile

from cas.errors import CasError, StoreDamaged
from cas.format import check_format
from cas.index import Index
from cas.locating import located
from cas.quoting import quoted
from cas.signals import CRASHES


def index_damage(store: str, *, quick: bool = False) -> str | None:
    """Return what is wrong with the index of the store at a path, as text; None if it can be used.

    Records are not looked at; nor, if `quick`, which pages are free. Raises StoreDamaged (what is
    there is no store's, and not to be read as one), CasError, OSError.
    """
    if not os.path.exists(os.path.join(store, "format")):
        return None  # told of by who opens it
    check_format(os.fsencode(store))
    command = [sys.executable, "-m", "cas.indexcheck", store, *(["quick"] if quick else [])]
    with located(os.fsencode(store)):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    index = quoted(os.path.join(store, "index"))
    if -done.returncode in CRASHES:
        return f"using the index {index} ends with {signal.Signals(-done.returncode).name}"
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:]  # without the rest of a traceback
        why = signal.strsignal(-done.returncode) if done.returncode < 0 else "".join(said)
        raise CasError(f"the index {index} could not be checked: {why}")
    return done.stdout.strip() or None


def _hash(index: Index) -> bytes:
    """Read all of an index. Raises StoreDamaged, or ends the process."""
    content = hashlib.blake2b()
    with index.read() as reader:
        for key, data in reader.content():
            content.update(b"%d %d " % (len(key), len(data)) + key + data)
    return content.digest()


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


def _main(store: str, *, quick: bool) -> None:
    try:
        index = Index(f"{store}/index".encode(), f"{store}/lock".encode())
        content = _hash(index)
    except StoreDamaged as error:
        print(error.message)
        return
    except FileNotFoundError:
        return  # it is for others to say that there is no store
    except (CasError, OSError) as error:
        sys.exit(str(error))
    if quick:
        return
    try:
        _check_free_pages(index, content)
    except StoreDamaged as error:
        print(f"the index {quoted(f'{store}/index')} is damaged in its list of free pages: {error}")
    except (CasError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main(sys.argv[1], quick=len(sys.argv) > 2)
