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
    from cas.compose.composition import Composition
    from cas.content.findings import Finding
    from cas.disk.counters import Counts
    from cas.disk.log import Event, EventKind
    from cas.disk.pins import NotPinned, Pin
    from cas.errors import CasError, ExitCode
    from cas.gc.collector import Collected, Doomed, GcPlan
    from cas.gc.policy import Policy
    from cas.gc.removal import Removed
    from cas.index.format import NoStore, StoreTooNew
    from cas.model.artifact import Artifact, Dropped
    from cas.model.conflicts import Conflict, ConflictPolicy, ConflictRefused
    from cas.model.manifest import Digest, Entry, Kind, Manifest
    from cas.model.signature import AmbiguousSignature, BadSignature, NoSuchSignature, Signature
    from cas.put.put import PutResult, SignatureConflict
    from cas.store import Store
    from cas.usage.artifacts import DiskUsage, Usage
    from cas.usage.space import Space
    from cas.usage.statistics import Day, Group, Statistics

_HOME = {
    "AmbiguousSignature": "model.signature",
    "Artifact": "model.artifact",
    "BadSignature": "model.signature",
    "CasError": "errors",
    "Collected": "gc.collector",
    "Composition": "compose.composition",
    "Conflict": "model.conflicts",
    "ConflictPolicy": "model.conflicts",
    "ConflictRefused": "model.conflicts",
    "Counts": "disk.counters",
    "Day": "usage.statistics",
    "Digest": "model.manifest",
    "DiskUsage": "usage.artifacts",
    "Doomed": "gc.collector",
    "Dropped": "model.artifact",
    "Entry": "model.manifest",
    "Event": "disk.log",
    "EventKind": "disk.log",
    "ExitCode": "errors",
    "Finding": "content.findings",
    "GcPlan": "gc.collector",
    "Group": "usage.statistics",
    "Kind": "model.manifest",
    "Manifest": "model.manifest",
    "NoStore": "index.format",
    "NoSuchSignature": "model.signature",
    "NotPinned": "disk.pins",
    "Pin": "disk.pins",
    "Policy": "gc.policy",
    "PutResult": "put.put",
    "Removed": "gc.removal",
    "Signature": "model.signature",
    "SignatureConflict": "put.put",
    "Space": "usage.space",
    "Statistics": "usage.statistics",
    "Store": "store",
    "StoreTooNew": "index.format",
    "Usage": "usage.artifacts",
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
