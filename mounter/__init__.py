"""Makes sysroots of compositions: mounts, or trees of links.

    with cas.Store(path) as store, store.compose(["glibc", "zlib"]) as composition:
        with mounter.mounted(composition, "build/recipe-sysroot") as mount:
            print(mount.strategy)
        mounter.run(["make"], {"/work/recipe-sysroot": composition})

Needs only the standard library. Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # "as" exports a name, for a type checker (PEP 484)
    from mounter.handover import decide as decide, enter as enter, held as held, hold as hold
    from mounter.listing import all_mounts as all_mounts, umount_stale as umount_stale
    from mounter.mounting import (
        Mount as Mount,
        carry_out as carry_out,
        mount as mount,
        mounted as mounted,
        planned as planned,
    )
    from mounter.plan import NoStrategy as NoStrategy, Plan as Plan, Strategy as Strategy
    from mounter.running import run as run, run_plans as run_plans
    from mounter.sandbox.isolation import BadSandbox as BadSandbox, Bind as Bind, Sandbox as Sandbox
    from mounter.trace.tracer import Tracer as Tracer, TraceRefused as TraceRefused
    from mounter.unmounting import NotMounted as NotMounted, umount as umount
    from mounter.updating import update as update

# Modules are called mounting, running and updating because a module `mounter.mount` would hide the
# function `mounter.mount`.
_EXPORTS = {
    "handover": ["decide", "enter", "held", "hold"],
    "listing": ["all_mounts", "umount_stale"],
    "mounting": ["Mount", "carry_out", "mount", "mounted", "planned"],
    "plan": ["NoStrategy", "Plan", "Strategy"],
    "running": ["run", "run_plans"],
    "sandbox.isolation": ["BadSandbox", "Bind", "Sandbox"],
    "trace.tracer": ["TraceRefused", "Tracer"],
    "unmounting": ["NotMounted", "umount"],
    "updating": ["update"],
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
