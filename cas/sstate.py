"""sstate, the shared state of Yocto's BitBake: what its objects are called, and what is in them.

An object is a tar archive of one task's output. Sources: `sstate.bbclass` and `staging.bbclass` of
openembedded-core, from dunfell (2020) to 2026.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cas.errors import InputRefused
from cas.quoting import quoted
from cas.signature import BadSignature, Signature

TASK = "do_populate_sysroot"
FIXMES = b"sysroot-fixmepath"
"""The directory of a stored tree with a file named like its recipe: the list, as sstate has it, of
the files that hold paths of where they are, as tokens. A sysroot of many has all their lists."""
_LIST = b"fixmepath"
_TOPS = (b"sysroot-destdir", b"recipe-sysroot-native")
"""The directory in an archive: for a target, and for what runs on the machine that builds."""
_NAME = re.compile(
    r"sstate:(?P<recipe>[^:]*):[^:]*:[^:]*:[^:]*:(?P<arch>[^:]*):[^:]*:"
    r"(?P<hash>[0-9a-f]{32,64})_(?P<task>\w+)\.(tar\.zst|tgz)"
)


class NoSstateObject(InputRefused):
    """A file is no sstate object of a sysroot."""

    def __init__(self, path: bytes, why: str) -> None:
        super().__init__(
            f"{quoted(path)} is no sstate object of a sysroot: {why}",
            hint="its name tells what it is: sstate:RECIPE:…:ARCH:…:HASH_populate_sysroot.tar.zst",
        )


def signature_of(path: bytes) -> Signature:
    """Return the task signature of an sstate object, from its name. Raises NoSstateObject."""
    found = _NAME.fullmatch(os.fsdecode(os.path.basename(path)))
    if found is None:
        raise NoSstateObject(path, "its name is not that of one")
    if f"do_{found['task']}" != TASK:
        raise NoSstateObject(path, f"it is of the task do_{found['task']}")
    try:
        return Signature.parse(f"{found['recipe']}:{found['arch']}:{TASK}:{found['hash']}")
    except BadSignature as error:
        raise NoSstateObject(path, error.message) from error


def is_object(path: bytes) -> bool:
    """Tell whether a file has the name of an sstate object of a sysroot."""
    found = _NAME.fullmatch(os.fsdecode(os.path.basename(path)))
    return found is not None and f"do_{found['task']}" == TASK


def objects_in(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the given files, and the sstate objects of sysroots that are in given directories.

    Those are below any directory there, and may be symbolic links, as BitBake makes to a mirror on
    disk. Raises OSError.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for directory, names, files in os.walk(path, onerror=_raise):
            names.sort()
            for name in sorted(files):
                if is_object(name):
                    yield os.path.join(directory, name)


class Layout(NamedTuple):
    """Where what an sstate object of a `recipe` holds has its place in the stored tree.

    The tree is in one directory. Beside that is, if there is one, the list of files to relocate.
    """

    recipe: str

    def place(self, path: bytes) -> bytes | None:
        """Return where in the tree a path of the archive is; see `cas.unpacking`."""
        if path == _LIST:
            return self._list
        top, _, below = path.partition(b"/")
        return below if top in (*_TOPS, b"") else None

    def member(self, path: bytes) -> bytes | None:
        """Return where in the archive a path of the tree is, with b"" for its root; or None."""
        if path == self._list:
            return _LIST
        native = self.recipe.endswith("-native") or "-cross" in self.recipe
        return None if path == FIXMES else os.path.join(_TOPS[native], path).rstrip(b"/")

    @property
    def _list(self) -> bytes:
        return FIXMES + b"/" + os.fsencode(self.recipe)


def _raise(error: OSError) -> None:
    raise error
