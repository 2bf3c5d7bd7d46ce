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
    from mounter.handover import decide, enter, held, hold
    from mounter.listing import all_mounts, umount_stale
    from mounter.mounting import Mount, carry_out, mount, mounted, planned
    from mounter.plan import NoStrategy, Plan, Strategy
    from mounter.running import run, run_plans
    from mounter.sandbox.isolation import Bind, Sandbox
    from mounter.trace.tracer import Tracer
    from mounter.unmounting import umount
    from mounter.updating import update

_HOME = {
    "Bind": "sandbox.isolation",
    "Mount": "mounting",
    "NoStrategy": "plan",
    "Plan": "plan",
    "Sandbox": "sandbox.isolation",
    "Strategy": "plan",
    "Tracer": "trace.tracer",
    "all_mounts": "listing",
    "carry_out": "mounting",
    "decide": "handover",
    "enter": "handover",
    "held": "handover",
    "hold": "handover",
    "mount": "mounting",
    "mounted": "mounting",
    "planned": "mounting",
    "run": "running",
    "run_plans": "running",
    "umount": "unmounting",
    "umount_stale": "listing",
    "update": "updating",
}

__all__ = [
    "Bind",
    "Mount",
    "NoStrategy",
    "Plan",
    "Sandbox",
    "Strategy",
    "Tracer",
    "all_mounts",
    "carry_out",
    "decide",
    "enter",
    "held",
    "hold",
    "mount",
    "mounted",
    "planned",
    "run",
    "run_plans",
    "umount",
    "umount_stale",
    "update",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mounter' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mounter.{_HOME[name]}"), name)
