"""The store: content, signatures, manifests and the index. Never mounts.

    with cas.Store("/var/cache/sysroots", create=True) as store:
        store.put("zlib:do_populate_sysroot:9f2c41d0", "build/zlib/sysroot")
        composition = store.compose(["zlib", "glibc"])

Names are imported when they are first used, so that `mounter` can use the parts that need
nothing but the standard library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cas.artifact import Artifact, Dropped
    from cas.composition import Composition
    from cas.conflicts import Conflict, ConflictPolicy, ConflictRefused
    from cas.errors import CasError, ExitCode
    from cas.format import NoStore, StoreTooNew
    from cas.manifest import Digest, Entry, Kind, Manifest
    from cas.put import PutResult, SignatureConflict
    from cas.signature import AmbiguousSignature, BadSignature, NoSuchSignature, Signature
    from cas.store import Removed, Store

_HOME = {
    "AmbiguousSignature": "signature",
    "Artifact": "artifact",
    "BadSignature": "signature",
    "CasError": "errors",
    "Composition": "composition",
    "Conflict": "conflicts",
    "ConflictPolicy": "conflicts",
    "ConflictRefused": "conflicts",
    "Digest": "manifest",
    "Dropped": "artifact",
    "Entry": "manifest",
    "ExitCode": "errors",
    "Kind": "manifest",
    "Manifest": "manifest",
    "NoStore": "format",
    "NoSuchSignature": "signature",
    "PutResult": "put",
    "Removed": "store",
    "Signature": "signature",
    "SignatureConflict": "put",
    "Store": "store",
    "StoreTooNew": "format",
}

__all__ = [
    "AmbiguousSignature",
    "Artifact",
    "BadSignature",
    "CasError",
    "Composition",
    "Conflict",
    "ConflictPolicy",
    "ConflictRefused",
    "Digest",
    "Dropped",
    "Entry",
    "ExitCode",
    "Kind",
    "Manifest",
    "NoStore",
    "NoSuchSignature",
    "PutResult",
    "Removed",
    "Signature",
    "SignatureConflict",
    "Store",
    "StoreTooNew",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'cas' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cas.{_HOME[name]}"), name)
