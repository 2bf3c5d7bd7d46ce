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
    from cas.counts import Counts
    from cas.errors import CasError, ExitCode
    from cas.events import Event, EventKind
    from cas.findings import Finding
    from cas.format import NoStore, StoreTooNew
    from cas.gc import Collected, Doomed, GcPlan
    from cas.manifest import Digest, Entry, Kind, Manifest
    from cas.pins import NotPinned, Pin
    from cas.policy import Policy
    from cas.put import PutResult, SignatureConflict
    from cas.removal import Removed
    from cas.signature import AmbiguousSignature, BadSignature, NoSuchSignature, Signature
    from cas.space import Space
    from cas.statistics import Day, Group, Statistics
    from cas.store import Store
    from cas.usage import DiskUsage, Usage

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
    "Counts": "counts",
    "Day": "statistics",
    "Digest": "manifest",
    "DiskUsage": "usage",
    "Doomed": "gc",
    "Dropped": "artifact",
    "Entry": "manifest",
    "Event": "events",
    "EventKind": "events",
    "ExitCode": "errors",
    "Finding": "findings",
    "GcPlan": "gc",
    "Group": "statistics",
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
    "Space": "space",
    "Statistics": "statistics",
    "Store": "store",
    "StoreTooNew": "format",
    "Usage": "usage",
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
    "Counts",
    "Day",
    "Digest",
    "DiskUsage",
    "Doomed",
    "Dropped",
    "Entry",
    "Event",
    "EventKind",
    "ExitCode",
    "Finding",
    "GcPlan",
    "Group",
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
    "Space",
    "Statistics",
    "Store",
    "StoreTooNew",
    "Usage",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'cas' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cas.{_HOME[name]}"), name)
