"""Turns a composition into a directory, by the kernel or by links.

    with cas.Store(path) as store, store.compose(["glibc", "zlib"]) as composition:
        with mounter.mounted(composition, "build/recipe-sysroot") as mount:
            print(mount.strategy)
        mounter.run(["make"], {"/work/recipe-sysroot": composition})

Needs the standard library only. Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mounter.mounting import Mount, mount, mounted, umount
    from mounter.plan import NoStrategy, Plan, Strategy
    from mounter.running import run

_HOME = {
    "Mount": "mounting",
    "NoStrategy": "plan",
    "Plan": "plan",
    "Strategy": "plan",
    "mount": "mounting",
    "mounted": "mounting",
    "run": "running",
    "umount": "mounting",
}

__all__ = ["Mount", "NoStrategy", "Plan", "Strategy", "mount", "mounted", "run", "umount"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mounter' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mounter.{_HOME[name]}"), name)
