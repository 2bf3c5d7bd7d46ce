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

if TYPE_CHECKING:  # "as" exports a name, for a type checker (PEP 484)
    from cas.compose.composition import Composition as Composition
    from cas.content.findings import Finding as Finding
    from cas.disk.counters import Counts as Counts
    from cas.disk.log import Event as Event, EventKind as EventKind
    from cas.disk.pins import NotPinned as NotPinned, Pin as Pin
    from cas.errors import (
        CasError as CasError,
        ExitCode as ExitCode,
        InputRefused as InputRefused,
        InUse as InUse,
        StoreDamaged as StoreDamaged,
    )
    from cas.gc.collector import Collected as Collected, Doomed as Doomed, GcPlan as GcPlan
    from cas.gc.policy import Policy as Policy
    from cas.gc.removal import Removed as Removed
    from cas.index.format import NoStore as NoStore, StoreTooNew as StoreTooNew
    from cas.model.artifact import Artifact as Artifact, Dropped as Dropped
    from cas.model.conflicts import (
        Conflict as Conflict,
        ConflictPolicy as ConflictPolicy,
        ConflictRefused as ConflictRefused,
    )
    from cas.model.manifest import (
        Digest as Digest,
        Entry as Entry,
        Kind as Kind,
        Manifest as Manifest,
    )
    from cas.model.signature import (
        AmbiguousSignature as AmbiguousSignature,
        BadSignature as BadSignature,
        NoSuchSignature as NoSuchSignature,
        Signature as Signature,
    )
    from cas.put.put import PutResult as PutResult, SignatureConflict as SignatureConflict
    from cas.store import Store as Store
    from cas.usage.artifacts import DiskUsage as DiskUsage, Usage as Usage
    from cas.usage.space import Space as Space
    from cas.usage.statistics import Day as Day, Group as Group, Statistics as Statistics

_EXPORTS = {
    "compose.composition": ["Composition"],
    "content.findings": ["Finding"],
    "disk.counters": ["Counts"],
    "disk.log": ["Event", "EventKind"],
    "disk.pins": ["NotPinned", "Pin"],
    "errors": ["CasError", "ExitCode", "InUse", "InputRefused", "StoreDamaged"],
    "gc.collector": ["Collected", "Doomed", "GcPlan"],
    "gc.policy": ["Policy"],
    "gc.removal": ["Removed"],
    "index.format": ["NoStore", "StoreTooNew"],
    "model.artifact": ["Artifact", "Dropped"],
    "model.conflicts": ["Conflict", "ConflictPolicy", "ConflictRefused"],
    "model.manifest": ["Digest", "Entry", "Kind", "Manifest"],
    "model.signature": ["AmbiguousSignature", "BadSignature", "NoSuchSignature", "Signature"],
    "put.put": ["PutResult", "SignatureConflict"],
    "store": ["Store"],
    "usage.artifacts": ["DiskUsage", "Usage"],
    "usage.space": ["Space"],
    "usage.statistics": ["Day", "Group", "Statistics"],
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
