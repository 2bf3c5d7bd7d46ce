"""Names and paths of the store on disk. `docs/format.md` specifies what they hold."""

from __future__ import annotations

import os
import re

from cas.model.manifest import Digest
from cas.model.signature import Signature

FORMAT = "sysroot-cas store 1"
DIRECTORIES = (
    "artifacts",
    "empty",
    "empty/1",
    "empty/2",
    "index",
    "known",
    "layers",
    "leases",
    "log",
    "manifests",
    "mounts",
    "objects",
    "pins",
    "quarantine",
    "tmp",
)
FILES = ("boot", "config.toml", "counts", "format", "lock", "reserve")
_OBJECT = re.compile(rb"([0-9a-f]{2}/[0-9a-f]{62}(\.x)?)(\.[0-9]+)?")
EMPTY = (b"empty/1", b"empty/2")
"""Two empty directories, for compositions of less than the two layers that overlayfs needs."""
MOST_LAYERS = 500
"""What overlayfs takes at most (OVL_MAX_STACK of the kernel)."""


def layer_path(tree: Digest) -> bytes:
    """Where the layer of a tree is, relative to the store."""
    return b"layers/" + tree.encode()


def manifest_path(tree: Digest) -> bytes:
    """Where the manifest of a tree is, relative to the store."""
    return b"manifests/" + tree.encode()


def artifact_path(signature: Signature) -> bytes:
    """Where the symbolic link from a signature to its layer is, relative to the store."""
    recipe, *rest = signature.fields
    return os.fsencode(f"artifacts/{recipe}/{':'.join(rest)}")


def content_of(path: bytes) -> bytes | None:
    """Return the name of the content of an object, from its path relative to `objects/`.

    That is its digest, and `.x` if it is executable; None if the path is not that of an object.
    """
    found = _OBJECT.fullmatch(path)
    return None if found is None else found[1].replace(b"/", b"")


def object_path(digest: Digest, *, executable: bool) -> bytes:
    """Where the object is, relative to the store."""
    return f"objects/{digest[:2]}/{digest[2:]}{'.x' if executable else ''}".encode()


def own_path(path: bytes, uid: int) -> bytes:
    """Where a user keeps a copy of the object at `path` that belongs to somebody else."""
    return b"%s.%d" % (path, uid)
