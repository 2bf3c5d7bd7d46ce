"""Which boot of the machine this is, since what was written before it may have been lost."""

from __future__ import annotations

import json
import os
import time
from functools import cache

from cas.disk.last_use import TICK_NS
from cas.disk.scratch import replace_file
from cas.model.strict_json import has_type, parse
from cas.system.files import read_sealed, seal

_MARK = b"boot"


@cache
def boot_id() -> str:
    """Return the kernel's name for this boot (proc(5), random/boot_id)."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


@cache
def began_ns() -> int:
    """Return when this boot began by the clock of now, in nanoseconds since 1970 (proc(5))."""
    with open("/proc/stat") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("btime ")) * 10**9


def contents_since_ns(store: bytes) -> int:
    """Return a time (nanoseconds since 1970): contents that are newer came in this boot.

    The first put of a boot notes it, in the store at the absolute path `store`. The clock need
    not be right: it may have gone back between boots, but a directory of contents is never older
    than what is in it. Raises OSError.
    """
    path = os.path.join(store, _MARK)
    try:
        boot, since = parse(read_sealed(path))
        if boot == boot_id() and has_type(since, int):
            return int(since)
    except (FileNotFoundError, ValueError, TypeError):
        pass  # the first one in a store, or cut by a power failure
    objects = os.path.join(store, b"objects")
    times = [os.stat(os.path.join(objects, name)).st_mtime_ns for name in os.listdir(objects)]
    since = max([time.time_ns(), *(made + TICK_NS for made in times)])
    replace_file(store, _MARK, seal(json.dumps([boot_id(), since])))
    return since
