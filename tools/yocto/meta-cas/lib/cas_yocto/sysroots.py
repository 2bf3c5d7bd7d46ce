"""The sysroots of a recipe: composed once its dependencies are known, and mounted in each task.

Files that differ from recipe to recipe, relocated ones and those made by scripts, are in upper
directories. These are filled once, in writable sysroots; later tasks see them read-only. If a task
has more dependencies, it makes a new generation with a copy of the upper directories.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import bb

from cas.errors import CasError, InUse, StoreDamaged
from cas_yocto.command import CommandFailed
from cas_yocto.dependencies import DepValid
from cas_yocto.plan import ComponentChanged, SysrootComponents, find_components, make_plans
from cas_yocto.relocate import Relocate, prepare_files
from cas_yocto.sysroot_dirs import Generation, Generations, merge_tasks
from cas_yocto.upload import Component
from mounter.handover import enter
from mounter.plan import NoStrategy, Plan

_PREPARE_TASK = "do_prepare_recipe_sysroot"
_EXPORT_TASK = "do_addto_recipe_sysroot"
"""A task whose sysroots are used after it has ended, so they must be linked."""
_MODES = ("mount", "writable", "link")
_RETRY_PAUSE_S = 0.05
_HELD_LEASES: list[object] = []
"""The leases of this process, kept until it ends."""


class StagingFunctions(NamedTuple):
    """OpenEmbedded's functions: setscene_depvalid, staging_processfixme, and linking sysroots."""

    depvalid: DepValid
    relocate: Relocate
    link: Callable[[], None]


class Unmountable(Exception):
    """Sysroots cannot be mounted; the text says why. `expected` if the kernel refuses."""

    def __init__(self, reason: str, *, expected: bool = False) -> None:
        self.expected = expected
        super().__init__(reason)


def extend(d: Any, staging: StagingFunctions) -> None:
    """Mount sysroots with everything that a task needs in this process, or link them."""
    generations = _generations(d)
    reason = _reason_to_link(d)
    if reason is None:
        try:
            with _as_unmountable():
                _update_sysroots(d, staging, generations)
            return
        except Unmountable as error:
            if not _is_preparing(d) and generations.current() is not None:
                _fail(d, error)
            log = bb.note if error.expected else bb.warn
            log(f"{d.getVar('PN')}: its sysroots are linked, not mounted: {error}")
    elif reason:
        bb.note(f"{d.getVar('PN')}: its sysroots are linked, not mounted: {reason}")
    if _is_preparing(d) and os.path.isdir(generations.path):
        with generations.locked():
            generations.forget()
    staging.link()


def mount(d: Any) -> None:
    """Mount the prepared sysroots, if there are any, where only this task sees them."""
    generations = _generations(d)
    if generations.current() is None or _is_linked(d):
        return
    try:
        with _as_unmountable():
            _enter_current(d, generations)
    except Unmountable as error:
        _fail(d, error)


@contextmanager
def _as_unmountable() -> Iterator[None]:
    """Convert every error that prevents mounting into Unmountable, for a `with` block."""
    try:
        yield
    except NoStrategy as refusal:
        raise Unmountable("; ".join(refusal.reasons), expected=True) from refusal
    except CommandFailed as error:
        raise Unmountable(error.reason) from error
    except CasError as error:
        raise Unmountable(error.message) from error
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unmountable(str(error)) from error


def _fail(d: Any, error: Unmountable) -> None:
    """End the task."""
    recipe, task = d.getVar("PN"), d.getVar("BB_RUNTASK")
    bb.fatal(
        f"{recipe}: its sysroots cannot be mounted in {task}: {error}. Prepare them again with "
        f'bitbake -c clean {recipe}; set CAS_SYSROOT:pn-{recipe} = "link" first to link them'
    )


def _generations(d: Any) -> Generations:
    return Generations(d.expand("${WORKDIR}/cas-sysroots"))


def _is_preparing(d: Any) -> bool:
    return bool(d.getVar("BB_RUNTASK") == _PREPARE_TASK)


def _is_linked(d: Any) -> bool:
    """Return whether the sysroots were linked when prepared, perhaps without this class."""
    index = d.expand("${RECIPE_SYSROOT_NATIVE}/installeddeps/index.") + _PREPARE_TASK
    return os.path.exists(index)


def _reason_to_link(d: Any) -> str | None:
    """Return why to link a recipe's sysroots, "" for a reason not to be logged; None to mount."""
    recipe, mode = d.getVar("PN"), d.getVar("CAS_SYSROOT")
    if mode not in _MODES:
        bb.fatal(f"{recipe}: CAS_SYSROOT is {mode!r}; it must be one of {', '.join(_MODES)}")
    if d.getVar("BB_LIMITEDDEPS") or d.getVar("BB_RUNTASK") == _EXPORT_TASK:
        return ""  # BB_LIMITEDDEPS: bitbake -b ignores dependencies
    if not _is_preparing(d):
        # Later tasks use what do_prepare_recipe_sysroot chose.
        return "" if _is_linked(d) else None
    if mode == "link":
        return "CAS_SYSROOT is link"
    if _matches(recipe, d.getVar("CAS_SYSROOT_LINKED")):
        return "CAS_SYSROOT_LINKED names it"
    if bb.data.inherits_class("kernel", d):
        return "other recipes run programs built here, which load libraries from the sysroot"
    return None


def _is_writable(d: Any) -> bool:
    listed = _matches(d.getVar("PN"), d.getVar("CAS_SYSROOT_WRITABLE"))
    return bool(listed or d.getVar("CAS_SYSROOT") == "writable")


def _matches(recipe: str, patterns: str) -> bool:
    return any(re.fullmatch(pattern, recipe) for pattern in patterns.split())


def _update_sysroots(d: Any, staging: StagingFunctions, generations: Generations) -> None:
    """Make a new generation if the task needs other components, and mount the current one."""
    own = find_components(d, staging.depvalid)
    task = d.getVar("BB_RUNTASK").removesuffix("_setscene")
    with generations.locked():
        old = None if _is_preparing(d) else generations.current()
        if _is_preparing(d):
            for name in ("RECIPE_SYSROOT", "RECIPE_SYSROOT_NATIVE"):
                _empty_sysroot(d.getVar(name))
        try:
            tasks, plans = _plan_if_changed(d, task, own, old)
        except ComponentChanged:
            # They were prepared in another build, and will be prepared again in this one.
            old = None
            tasks, plans = _plan_if_changed(d, task, own, None)
        if old is not None and not plans:
            old._replace(tasks=tasks).save()
        elif not plans:
            generations.forget()
        else:
            _make_generation(d, staging, generations, tasks, plans, old)
    if not _is_preparing(d) and merge_tasks(tasks):
        _enter_current(d, generations)


def _plan_if_changed(
    d: Any, task: str, own: SysrootComponents, old: Generation | None
) -> tuple[dict[str, SysrootComponents], list[Plan]]:
    """Return the components of all tasks, with plans unless the old generation has the same."""
    others = {name: sysroots for name, sysroots in old.tasks.items() if name != task} if old else {}
    tasks = others | {task: own}
    if (old is not None and merge_tasks(tasks) == old.sysroots) or not merge_tasks(tasks):
        return tasks, []
    return tasks, make_plans(d, merge_tasks(tasks))


def _make_generation(
    d: Any,
    staging: StagingFunctions,
    generations: Generations,
    tasks: dict[str, SysrootComponents],
    plans: list[Plan],
    old: Generation | None,
) -> None:
    """Make a generation, fill its upper directories and make it the current one."""
    prepared: Generation | None = None
    if old is not None and not _contains(merge_tasks(tasks), old.sysroots):
        # Files made from removed components must not remain. But files written by functions after
        # do_prepare_recipe_sysroot, such as useradd's, must: those functions do not run again.
        old = prepared = generations.prepared()
        if old is not None and not _contains(merge_tasks(tasks), old.sysroots):
            old = None
    new = generations.begin(tasks, plans, old)
    if prepared is not None and old is None:
        generations.copy_recipe_changes(prepared, new)
    added = _added(new.sysroots, old.sysroots if old else {})
    if _is_preparing(d):
        _enter(new, writable=True)  # in this process: functions that run next write there too
        try:
            output = prepare_files(d, staging.relocate, new, added)
        except (OSError, subprocess.CalledProcessError) as error:
            # It is too late to link, since the sysroots are mounted.
            bb.fatal(f"{d.getVar('PN')}: its sysroots cannot be prepared: {error}")
    else:
        output = _in_child(lambda: _enter_and_prepare(d, staging, new, added))
    if output:
        bb.note(output)
    if _is_preparing(d):
        generations.record_made_files(new)
    generations.publish(new, prepared=_is_preparing(d))
    bb.note(f"Mounted in the sysroots: {', '.join(sorted(component.id for component in added))}")


def _contains(new: SysrootComponents, old: SysrootComponents) -> bool:
    """Return whether all components of the old sysroots are in the new ones."""
    return all(
        new.get(sysroot, {}).get(recipe) == component
        for sysroot, components in old.items()
        for recipe, component in components.items()
    )


def _added(new: SysrootComponents, old: SysrootComponents) -> list[Component]:
    """Return the components whose files must be relocated and whose scripts must run."""
    return [
        component
        for sysroot, components in new.items()
        for recipe, component in components.items()
        if recipe not in old.get(sysroot, {})
    ]


def _empty_sysroot(sysroot: str) -> None:
    """Delete the links in a sysroot, but not its directory."""
    # Another task may have mounted on the directory; deleting it would detach that (Linux 3.18).
    os.makedirs(sysroot, exist_ok=True)
    for name in os.listdir(sysroot):
        bb.utils.remove(os.path.join(sysroot, name), recurse=True)


def _enter_current(d: Any, generations: Generations) -> None:
    """Mount the current generation as soon as no task writes to it."""
    while True:
        try:
            with generations.locked():
                current = generations.current()
                if current is None:
                    return None
                try:
                    return _enter(current, writable=_is_writable(d))
                except StoreDamaged:  # a collection has removed a layer
                    _renew_plans(d, generations, current)
        except InUse:
            time.sleep(_RETRY_PAUSE_S)


def _renew_plans(d: Any, generations: Generations, current: Generation) -> None:
    """Store missing components again and plan anew, or forget the generation."""
    try:
        plans = make_plans(d, current.sysroots)
    except ComponentChanged:
        bb.note("The sysroots of another build are not mounted: they will be prepared again")
        generations.forget()
        return
    uppers = {plan.target: plan.upper for plan in current.plans}
    plans_with_uppers = (plan._replace(upper=uppers[plan.target]) for plan in plans)
    current._replace(plans=tuple(plans_with_uppers)).save()


def _enter(generation: Generation, *, writable: bool) -> None:
    """Mount sysroots in this process, until it ends. Raises NoStrategy, InUse, StoreDamaged."""
    plans = [plan._replace(writable=writable) for plan in generation.plans]
    for plan in plans:
        os.makedirs(plan.target, exist_ok=True)
    _HELD_LEASES.extend(enter(plans, "a task of BitBake", inherited=False))


def _enter_and_prepare(
    d: Any, staging: StagingFunctions, generation: Generation, added: Sequence[Component]
) -> str:
    _enter(generation, writable=True)
    return prepare_files(d, staging.relocate, generation, added)


def _in_child(work: Callable[[], str]) -> str:
    """Do something in a child process, whose mounts this one must not have; return the result.

    Raises what `work` raises.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        result: str | Exception = RuntimeError("it was interrupted")
        try:
            result = work()
        except Exception as error:
            result = error
        finally:
            with open(writing, "wb") as file:
                pickle.dump(result, file)
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    if not data:
        bb.fatal("a process that prepared sysroots was killed")
    result = pickle.loads(data)
    if isinstance(result, Exception):
        raise result
    assert isinstance(result, str)
    return result
