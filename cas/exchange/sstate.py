"""sstate, the shared state of Yocto's BitBake: what its objects are called, and what is in them.

An object is a tar archive of one task's output. Sources: `sstate.bbclass` and `staging.bbclass` of
openembedded-core, from dunfell (2020) to 2026.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from cas.errors import InputRefused
from cas.model.manifest import Manifest
from cas.model.signature import BadSignature, Signature
from cas.system.text import quoted

TASK = "do_populate_sysroot"
FIXMES = b"sysroot-fixmepath"
"""The directory of a stored tree with a file named like its recipe: the list, as sstate has it, of
the files that hold paths of where they are, as tokens. A sysroot of many has all their lists."""
_LIST = b"fixmepath"
_COMMAND = b"fixmepath.cmd"
_TOPS = (b"sysroot-destdir", b"recipe-sysroot-native")
"""The directory in an archive: for a target, and for what runs on the machine that builds."""
_NAME = re.compile(
    r"sstate:(?P<recipe>[^:]*):[^:]*:[^:]*:[^:]*:(?P<arch>[^:]*):[^:]*:"
    r"(?P<hash>[0-9a-f]{32,64})_(?P<task>\w+)\.(tar\.zst|tgz)"
)


class NotAnSstateObject(InputRefused):
    """A file is no sstate object of a sysroot."""

    def __init__(self, path: bytes, why: str) -> None:
        super().__init__(
            f"{quoted(path)} is no sstate object of a sysroot: {why}",
            hint="its name tells what it is: sstate:RECIPE:…:ARCH:…:HASH_populate_sysroot.tar.zst",
        )


def signature_of(path: bytes) -> Signature:
    """Return the task signature of an sstate object, from its name. Raises NotAnSstateObject."""
    found = _NAME.fullmatch(os.fsdecode(os.path.basename(path)))
    if found is None:
        is_there = os.path.lexists(path)
        raise NotAnSstateObject(
            path, "its name is not that of one" if is_there else "nothing is there"
        )
    if f"do_{found['task']}" != TASK:
        raise NotAnSstateObject(path, f"it is of the task do_{found['task']}")
    try:
        return Signature.parse(f"{found['recipe']}:{found['arch']}:{TASK}:{found['hash']}")
    except BadSignature as error:
        raise NotAnSstateObject(path, error.message) from error


def is_object(path: bytes) -> bool:
    """Tell whether a file has the name of an sstate object of a sysroot."""
    found = _NAME.fullmatch(os.fsdecode(os.path.basename(path)))
    return found is not None and f"do_{found['task']}" == TASK


def objects_in(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the given files, and the sstate objects of sysroots that are in given directories.

    Those are below any directory there; all may be symbolic links, as BitBake makes to a mirror on
    disk. Raises OSError.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        seen: set[tuple[int, int]] = set()  # links may lead round in circles
        for directory, names, files in os.walk(path, onerror=_raise, followlinks=True):
            found = os.stat(directory)
            if (found.st_dev, found.st_ino) in seen:
                names.clear()
                continue
            seen.add((found.st_dev, found.st_ino))
            names.sort()
            for name in sorted(files):
                if is_object(name):
                    yield os.path.join(directory, name)


class SstateMapping:
    """Where what one sstate object of a `recipe` holds has its place in the stored tree.

    The tree is in one directory. Beside that is, if there is one, the list of files to relocate.
    """

    def __init__(self, recipe: str) -> None:
        self._list = FIXMES + b"/" + os.fsencode(recipe)
        self._native = recipe.endswith("-native") or (
            "-cross" in recipe and "-cross-canadian" not in recipe
        )
        self._top: bytes | None = None

    def place(self, path: bytes) -> bytes | None:
        """Return where in the tree a path of the archive is; see `cas.put.scan_result.Place`."""
        if path == _LIST:
            return self._list
        top, _, below = path.partition(b"/")
        if top == b"":
            return b""
        if top not in _TOPS or self._top not in (None, top) or below.split(b"/")[0] == FIXMES:
            return None
        self._top = top
        return below

    def place_of_component(self, path: bytes) -> bytes | None:
        """Return the place of a path that is in a directory of BitBake's `sysroots-components`."""
        if path == _LIST:
            return self._list
        return None if path == _COMMAND else path

    def member(self, path: bytes) -> bytes | None:
        """Return where in the archive a path of the tree is, with b"" for its root; or None."""
        if path == self._list:
            return _LIST
        return None if path == FIXMES else os.path.join(_TOPS[self._native], path).rstrip(b"/")

    def can_hold(self, manifest: Manifest) -> bool:
        """Tell whether an object of this layout can hold a tree."""
        lists = [path for path in manifest.nodes if path.startswith(FIXMES + b"/")]
        return lists == ([self._list] if FIXMES in manifest.nodes else [])


def _raise(error: OSError) -> None:
    raise error
