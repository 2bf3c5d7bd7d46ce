"""The names and layout of sstate objects, the shared state of Yocto's BitBake.

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
"""A directory in the stored tree with one file, named after the recipe: sstate's list of the files
that contain relocatable paths. A sysroot of many artifacts has all of their lists."""
_LIST = b"fixmepath"
_COMMAND = b"fixmepath.cmd"
_TOPS = (b"sysroot-destdir", b"recipe-sysroot-native")
"""The top directory in an archive, for the target and for native tools."""
_NAME = re.compile(
    r"sstate:(?P<recipe>[^:]*):[^:]*:[^:]*:[^:]*:(?P<arch>[^:]*):[^:]*:"
    r"(?P<hash>[0-9a-f]{32,64})_(?P<task>\w+)\.(tar\.zst|tgz)"
)


class NotAnSstateObject(InputRefused):
    """A file is not an sstate object of do_populate_sysroot."""

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__(
            f"{quoted(path)} is not an sstate object of a sysroot: {reason}",
            hint="its name must be sstate:RECIPE:…:ARCH:…:HASH_populate_sysroot.tar.zst",
        )


def signature_of(path: bytes) -> Signature:
    """Return the ID in the name of an sstate object. Raises NotAnSstateObject."""
    found = _NAME.fullmatch(os.fsdecode(os.path.basename(path)))
    if found is None:
        exists = os.path.lexists(path)
        raise NotAnSstateObject(
            path, "its name has another form" if exists else "it does not exist"
        )
    if f"do_{found['task']}" != TASK:
        raise NotAnSstateObject(path, f"it belongs to the task do_{found['task']}")
    try:
        return Signature.parse(f"{found['recipe']}:{found['arch']}:{TASK}:{found['hash']}")
    except BadSignature as error:
        raise NotAnSstateObject(path, error.message) from error


def is_object(path: bytes) -> bool:
    """Return whether a file has the name of an sstate object of a sysroot."""
    found = _NAME.fullmatch(os.fsdecode(os.path.basename(path)))
    return found is not None and f"do_{found['task']}" == TASK


def objects_in(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the given files, and the sstate objects of sysroots in the given directories.

    Directories are searched recursively. Symbolic links are followed, since BitBake links to
    mirrors on the disk. Raises OSError.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        seen: set[tuple[int, int]] = set()  # links may form a circle
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
    """Maps the paths of an sstate object of a `recipe` to those of the stored tree, and back.

    The object has the tree in one directory, and beside it an optional list of files to relocate.
    """

    def __init__(self, recipe: str) -> None:
        self._list = FIXMES + b"/" + os.fsencode(recipe)
        self._native = recipe.endswith("-native") or (
            "-cross" in recipe and "-cross-canadian" not in recipe
        )
        self._top: bytes | None = None

    def place(self, path: bytes) -> bytes | None:
        """Return the path in the tree for a path of the archive; None omits it."""
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
        """Return the path in the tree for a path in BitBake's `sysroots-components`."""
        if path == _LIST:
            return self._list
        return None if path == _COMMAND else path

    def member(self, path: bytes) -> bytes | None:
        """Return the name in the archive of a path of the tree (b"" is its root), or None."""
        if path == self._list:
            return _LIST
        return None if path == FIXMES else os.path.join(_TOPS[self._native], path).rstrip(b"/")

    def can_hold(self, manifest: Manifest) -> bool:
        """Return whether an sstate object can represent a tree."""
        lists = [path for path in manifest.nodes if path.startswith(FIXMES + b"/")]
        return lists == ([self._list] if FIXMES in manifest.nodes else [])


def _raise(error: OSError) -> None:
    raise error
