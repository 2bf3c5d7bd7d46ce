"""Which sysroots a task needs: those that BitBake would restore for it from sstate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cas.exchange.sstate import TASK

_BESIDE_SSTATE = ("do_stash_locale", "do_deploy")
"""Tasks that setscene_depvalid knows of, though they may not be in SSTATETASKS."""
_PN, _TASKNAME, _DEPENDS = 0, 1, 3
"""Fields of an entry of BB_TASKDEPDATA."""

Entry = Sequence[Any]
DepValid = Callable[[str, Mapping[str, Sequence[str]], Sequence[str], Any, list[str]], bool]


def needed(d: Any, depvalid: DepValid) -> list[str]:
    """Return the IDs, in BB_TASKDEPDATA, of the do_populate_sysroot tasks that a task needs.

    From its direct dependencies on, those that `depvalid` (setscene_depvalid of sstate.bbclass)
    does not call unneeded are followed. Other tasks than those with sstate are seen through.
    """
    entries: Mapping[str, Entry] = d.getVar("BB_TASKDEPDATA", False)
    sstate = {*d.getVar("SSTATETASKS").split(), *_BESIDE_SSTATE}
    own = (d.getVar("PN"), d.getVar("BB_RUNTASK").removesuffix("_setscene"))
    # The first one: that of another multiconfig may be among what it depends on.
    start = next(tid for tid, entry in entries.items() if tuple(entry[:2]) == own)

    def next_to(tid: str) -> list[str]:
        """Return the nearest tasks with sstate that a task depends on."""
        found, seen, waiting = [], {tid}, list(entries[tid][_DEPENDS])
        while waiting:
            near = waiting.pop()
            if near in seen:
                continue
            seen.add(near)
            if entries[near][_TASKNAME] in sstate:
                found.append(near)
            else:
                waiting += entries[near][_DEPENDS]
        return sorted(found)

    done = next_to(start)
    for tid in done:  # which grows meanwhile
        for near in next_to(tid):
            both = {one: entries[one][:2] for one in (tid, near)}
            if near not in done and not depvalid(near, both, [], d, []):
                done.append(near)
    sysroots = [tid for tid in done if entries[tid][_TASKNAME] == TASK]
    if own[1] in ("do_sdk_depends", "do_populate_sdk_ext"):
        sysroots = [tid for tid in sysroots if not entries[tid][_PN].endswith("-initial")]
    return sysroots
