"""The boot of the machine: a power failure may have lost data that was written before it."""

from __future__ import annotations

import json
import os
import time
from functools import cache

from cas.disk.last_use import TICK_NS
from cas.disk.scratch import replace_file
from cas.model.strict_json import has_type, parse
from cas.system.debug_log import debug
from cas.system.files import read_sealed, seal

_MARK = b"boot"


@cache
def boot_id() -> str:
    """Return the kernel's ID of this boot (proc(5), random/boot_id)."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


@cache
def boot_time_ns() -> int:
    """Return the time of this boot by the current clock (ns since 1970; proc(5), btime)."""
    with open("/proc/stat") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("btime ")) * 10**9


def contents_since_ns(store: bytes) -> int:
    """Return the time (nanoseconds since 1970) after which objects were stored in this boot.

    The first put of a boot records it in the store at the absolute path `store`. The clock may have
    gone back since the last boot, so the times of the directories, which are never older than the
    objects in them, count as well. Raises OSError.
    """
    path = os.path.join(store, _MARK)
    try:
        boot, since = parse(read_sealed(path))
        if boot == boot_id() and has_type(since, int):
            return int(since)
    except (FileNotFoundError, ValueError, TypeError):
        pass  # a new store, or a file that a power failure truncated
    objects = os.path.join(store, b"objects")
    times = [os.stat(os.path.join(objects, name)).st_mtime_ns for name in os.listdir(objects)]
    since = max([time.time_ns(), *(made + TICK_NS for made in times)])
    replace_file(store, _MARK, seal(json.dumps([boot_id(), since])))
    debug("first put of this boot: objects from before %d ns are read before use", since)
    return since
