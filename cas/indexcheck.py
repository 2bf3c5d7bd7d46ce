"""Reading all of an index, in a process of its own.

LMDB trusts its file: where bits have flipped in it, reading can end the process. So whoever has
to know lets another process read it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

from cas.errors import CasError
from cas.format import check_format
from cas.index import Index


def index_damage(store: str) -> str | None:
    """Return what is wrong with the index of the store at a path, as text; None if it can be read.

    Records are not looked at. Raises StoreDamaged (what is there is no store's, and not to be
    read as one), OSError.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # told of by who opens it
        check_format(os.fsencode(store))
    done = subprocess.run(
        [sys.executable, "-m", "cas.indexcheck", store], capture_output=True, text=True, check=False
    )
    if done.returncode < 0:
        return f"reading the index ends with {signal.Signals(-done.returncode).name}"
    return done.stdout.strip() or None if done.returncode == 0 else done.stderr.strip()


def _main(store: str) -> None:
    try:
        index = Index(f"{store}/index".encode(), f"{store}/lock".encode())
        with index.read() as reader:
            reader.read_all()
    except CasError as error:
        print(error.message)
    except FileNotFoundError:
        return  # it is for others to say that there is no store


if __name__ == "__main__":
    _main(sys.argv[1])
