"""Names and paths in the directory of a store; `docs/format.md` specifies their content."""

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
EMPTY_LAYERS = (b"empty/1", b"empty/2")
"""Two empty directories: overlayfs needs two layers, and a composition may have fewer."""
MAX_LAYERS = 500
"""The limit of overlayfs (OVL_MAX_STACK in the kernel)."""


def layer_path(tree: Digest) -> bytes:
    """Return the path of the layer of a tree, relative to the store."""
    return b"layers/" + tree.encode()


def manifest_path(tree: Digest) -> bytes:
    """Return the path of the manifest of a tree, relative to the store."""
    return b"manifests/" + tree.encode()


def artifact_path(signature: Signature) -> bytes:
    """Return the path of the link from an ID to its layer, relative to the store."""
    recipe, *rest = signature.fields
    return os.fsencode(f"artifacts/{recipe}/{':'.join(rest)}")


def content_of_object(path: bytes) -> bytes | None:
    """Return the content name of an object, given its path relative to `objects/`.

    The name is the digest, followed by `.x` if the object is executable. Returns None if the path
    is not that of an object.
    """
    match = _OBJECT.fullmatch(path)
    return None if match is None else match[1].replace(b"/", b"")


def object_path(digest: Digest, *, executable: bool) -> bytes:
    """Return the path of an object, relative to the store."""
    return f"objects/{digest[:2]}/{digest[2:]}{'.x' if executable else ''}".encode()


def user_object_path(path: bytes, uid: int) -> bytes:
    """Return the path of a user's own copy of an object that belongs to another user."""
    return b"%s.%d" % (path, uid)
