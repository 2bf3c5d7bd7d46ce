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
    from cas.gc import Collected, Doomed, GcPlan
    from cas.manifest import Digest, Entry, Kind, Manifest
    from cas.pins import NotPinned, Pin
    from cas.policy import Policy
    from cas.put import PutResult, SignatureConflict
    from cas.removal import Removed
    from cas.signature import AmbiguousSignature, BadSignature, NoSuchSignature, Signature
    from cas.store import Store

_HOME = {
    "AmbiguousSignature": "signature",
    "Artifact": "artifact",
    "BadSignature": "signature",
    "CasError": "errors",
    "Collected": "gc",
    "Composition": "composition",
    "Conflict": "conflicts",
    "ConflictPolicy": "conflicts",
    "ConflictRefused": "conflicts",
    "Digest": "manifest",
    "Doomed": "gc",
    "Dropped": "artifact",
    "Entry": "manifest",
    "ExitCode": "errors",
    "GcPlan": "gc",
    "Kind": "manifest",
    "Manifest": "manifest",
    "NoStore": "format",
    "NoSuchSignature": "signature",
    "NotPinned": "pins",
    "Pin": "pins",
    "Policy": "policy",
    "PutResult": "put",
    "Removed": "removal",
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
    "Collected",
    "Composition",
    "Conflict",
    "ConflictPolicy",
    "ConflictRefused",
    "Digest",
    "Doomed",
    "Dropped",
    "Entry",
    "ExitCode",
    "GcPlan",
    "Kind",
    "Manifest",
    "NoStore",
    "NoSuchSignature",
    "NotPinned",
    "Pin",
    "Policy",
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
