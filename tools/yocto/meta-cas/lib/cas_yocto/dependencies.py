"""Finds the sysroots that a task needs: those that BitBake would restore for it from sstate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cas.exchange.sstate import TASK

UNIHASH = 6
_PN, _TASKNAME, _DEPENDS = 0, 1, 3
"""Fields of an entry of BB_TASKDEPDATA."""
_EXTRA_TASKS = ("do_stash_locale", "do_deploy")
"""Tasks that setscene_depvalid knows, although SSTATETASKS may lack them."""

Entry = Sequence[Any]
DepValid = Callable[[str, Mapping[str, Sequence[str]], Sequence[str], Any, list[str]], bool]
"""OpenEmbedded's setscene_depvalid."""


def needed_tasks(d: Any, depvalid: DepValid) -> list[str]:
    """Return the ids in BB_TASKDEPDATA of the do_populate_sysroot tasks that a task needs.

    Follows the dependencies, from the direct ones, except those that `depvalid`
    (setscene_depvalid of sstate.bbclass) declares unnecessary. Tasks without sstate are skipped
    over: their dependencies count as the task's own.
    """
    entries: Mapping[str, Entry] = d.getVar("BB_TASKDEPDATA", False)
    sstate_tasks = {*d.getVar("SSTATETASKS").split(), *_EXTRA_TASKS}
    own = (d.getVar("PN"), d.getVar("BB_RUNTASK").removesuffix("_setscene"))
    # The first match: the same task of another multiconfig may be among its dependencies.
    start = next(tid for tid, entry in entries.items() if tuple(entry[:2]) == own)

    def nearest(tid: str) -> list[str]:
        """Return the nearest tasks with sstate that a task depends on."""
        tasks, seen, queue = [], {tid}, list(entries[tid][_DEPENDS])
        while queue:
            dependency = queue.pop()
            if dependency in seen:
                continue
            seen.add(dependency)
            if entries[dependency][_TASKNAME] in sstate_tasks:
                tasks.append(dependency)
            else:
                queue += entries[dependency][_DEPENDS]
        return sorted(tasks)

    needed = nearest(start)
    for tid in needed:  # the list grows during the loop
        for dependency in nearest(tid):
            pair = {task: entries[task][:2] for task in (tid, dependency)}
            if dependency not in needed and not depvalid(dependency, pair, [], d, []):
                needed.append(dependency)
    sysroots = [tid for tid in needed if entries[tid][_TASKNAME] == TASK]
    if own[1] in ("do_sdk_depends", "do_populate_sdk_ext"):
        sysroots = [tid for tid in sysroots if not entries[tid][_PN].endswith("-initial")]
    return sysroots
