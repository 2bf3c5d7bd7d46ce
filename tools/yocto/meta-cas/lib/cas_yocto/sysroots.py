"""Sysroots of a recipe: composed when its dependencies are known, and mounted in each task.

What differs from recipe to recipe, relocated files and what scripts have made, is in upper
directories. They are filled once, in sysroots that take changes; later tasks see them, and change
nothing. Further dependencies of a task make a new generation, with a copy of them.
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
from cas_yocto.plan import Outdated, Wanted, composed, wanted_by
from cas_yocto.relocate import Relocate, furnish
from cas_yocto.sysroot_dirs import Generation, Generations, united
from cas_yocto.upload import Component
from mounter.handover import enter
from mounter.plan import NoStrategy, Plan

_PREPARING = "do_prepare_recipe_sysroot"
_FOR_OTHERS = "do_addto_recipe_sysroot"
"""A task whose sysroot is used when it has ended."""
_MODES = ("mount", "writable", "link")
_LOOK_AGAIN = 0.05  # seconds
_HELD: list[object] = []
"""Leases of this process, until it ends."""


class Stock(NamedTuple):
    """What OpenEmbedded's classes have: setscene_depvalid, staging_processfixme, and linking."""

    depvalid: DepValid
    relocate: Relocate
    link: Callable[[], None]


class Unmountable(Exception):
    """Sysroots cannot be mounted; the text says why. `expected` if the kernel does not do it."""

    def __init__(self, why: str, *, expected: bool = False) -> None:
        self.expected = expected
        super().__init__(why)


def extend(d: Any, stock: Stock) -> None:
    """Let a task's sysroots have what it needs; its process sees them from now on."""
    generations = _generations(d)
    why = _why_linked(d)
    if why is None:
        try:
            with _explained():
                _extend(d, stock, generations)
            return
        except Unmountable as error:
            if not _is_preparing(d) and generations.current() is not None:
                _end(d, error)
            tell = bb.note if error.expected else bb.warn
            tell(f"{d.getVar('PN')}: its sysroots are linked, not mounted: {error}")
    elif why:
        bb.note(f"{d.getVar('PN')}: its sysroots are linked, not mounted: {why}")
    if _is_preparing(d) and os.path.isdir(generations.path):
        with generations.locked():
            generations.forget()
    stock.link()


def mount(d: Any) -> None:
    """Mount the sysroots that were prepared, if any were, where only this task sees them."""
    generations = _generations(d)
    if generations.current() is None or _is_linked(d):
        return
    try:
        with _explained():
            _enter_current(d, generations)
    except Unmountable as error:
        _end(d, error)


@contextmanager
def _explained() -> Iterator[None]:
    """Make one exception of all that can keep sysroots from being mounted."""
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


def _end(d: Any, why: Unmountable) -> None:
    recipe, task = d.getVar("PN"), d.getVar("BB_RUNTASK")
    bb.fatal(
        f"{recipe}: its sysroots cannot be mounted in {task}: {why}. Prepare them anew by "
        f'bitbake -c clean {recipe}, or linked with CAS_SYSROOT:pn-{recipe} = "link" before that'
    )


def _generations(d: Any) -> Generations:
    return Generations(d.expand("${WORKDIR}/cas-sysroots"))


def _is_preparing(d: Any) -> bool:
    return bool(d.getVar("BB_RUNTASK") == _PREPARING)


def _is_linked(d: Any) -> bool:
    """Tell whether the sysroots were linked when they were prepared, maybe without this class."""
    index = d.expand("${RECIPE_SYSROOT_NATIVE}/installeddeps/index.") + _PREPARING
    return os.path.exists(index)


def _why_linked(d: Any) -> str | None:
    """Return why a recipe's sysroots are to be linked, "" if nobody need be told; else None."""
    recipe, mode = d.getVar("PN"), d.getVar("CAS_SYSROOT")
    if mode not in _MODES:
        bb.fatal(f"{recipe}: CAS_SYSROOT is {mode!r}: it has to be one of {', '.join(_MODES)}")
    if d.getVar("BB_LIMITEDDEPS") or d.getVar("BB_RUNTASK") == _FOR_OTHERS:
        return ""  # by bitbake -b, which knows of no dependencies
    if not _is_preparing(d):
        # Like those that were prepared.
        return "" if _is_linked(d) else None
    if mode == "link":
        return "CAS_SYSROOT says so"
    if _matches(recipe, d.getVar("CAS_SYSROOT_LINKED")):
        return "CAS_SYSROOT_LINKED names it"
    if bb.data.inherits_class("kernel", d):
        return "others run programs that it has built, and that find their libraries there"
    return None


def _is_writable(d: Any) -> bool:
    named = _matches(d.getVar("PN"), d.getVar("CAS_SYSROOT_WRITABLE"))
    return bool(named or d.getVar("CAS_SYSROOT") == "writable")


def _matches(recipe: str, patterns: str) -> bool:
    return any(re.fullmatch(pattern, recipe) for pattern in patterns.split())


def _extend(d: Any, stock: Stock, generations: Generations) -> None:
    own = wanted_by(d, stock.depvalid)
    task = d.getVar("BB_RUNTASK").removesuffix("_setscene")
    with generations.locked():
        old = None if _is_preparing(d) else generations.current()
        if _is_preparing(d):
            for name in ("RECIPE_SYSROOT", "RECIPE_SYSROOT_NATIVE"):
                _empty(d.getVar(name))
        try:
            tasks, plans = _planned(d, task, own, old)
        except Outdated:  # what was prepared in another build, which is about to be prepared anew
            old = None
            tasks, plans = _planned(d, task, own, None)
        if old is not None and not plans:
            old._replace(tasks=tasks).save()
        elif not plans:
            generations.forget()
        else:
            _renew(d, stock, generations, tasks, plans, old)
    if not _is_preparing(d) and united(tasks):
        _enter_current(d, generations)


def _planned(
    d: Any, task: str, own: Wanted, old: Generation | None
) -> tuple[dict[str, Wanted], list[Plan]]:
    """Return what all tasks want now, with plans for it unless the old generation has the same."""
    others = {name: wanted for name, wanted in old.tasks.items() if name != task} if old else {}
    tasks = others | {task: own}
    if (old is not None and united(tasks) == old.wanted) or not united(tasks):
        return tasks, []
    return tasks, composed(d, united(tasks))


def _renew(
    d: Any,
    stock: Stock,
    generations: Generations,
    tasks: dict[str, Wanted],
    plans: list[Plan],
    old: Generation | None,
) -> None:
    """Make a generation, and let it be the current one."""
    prepared: Generation | None = None
    if old is not None and not _is_more(united(tasks), old.wanted):
        # What was made of components that are gone has to go, too, but not what functions after
        # do_prepare_recipe_sysroot have written, as that of useradd: it does not run again.
        old = prepared = generations.prepared()
        if old is not None and not _is_more(united(tasks), old.wanted):
            old = None
    new = generations.begin(tasks, plans, old)
    if prepared is not None and old is None:
        generations.copy_own(prepared, new)
    added = _added(new.wanted, old.wanted if old else {})
    if _is_preparing(d):
        _enter(new, writable=True)  # for functions that come after this one, too
        try:
            said = furnish(d, stock.relocate, new, added)
        except (OSError, subprocess.CalledProcessError) as error:  # too late to link: it is mounted
            bb.fatal(f"{d.getVar('PN')}: its sysroots cannot be prepared: {error}")
    else:
        said = _in_child(lambda: _enter_and_furnish(d, stock, new, added))
    if said:
        bb.note(said)
    if _is_preparing(d):
        generations.note_made(new)
    generations.publish(new, prepared=_is_preparing(d))
    bb.note(f"Mounted in the sysroots: {', '.join(sorted(one.id for one in added))}")


def _is_more(new: Wanted, old: Wanted) -> bool:
    """Tell whether all that was wanted still is."""
    return all(
        new.get(sysroot, {}).get(recipe) == one
        for sysroot, components in old.items()
        for recipe, one in components.items()
    )


def _added(new: Wanted, old: Wanted) -> list[Component]:
    """Return the components whose files have to be relocated, and scripts to be run."""
    return [
        one
        for sysroot, components in new.items()
        for recipe, one in components.items()
        if recipe not in old.get(sysroot, {})
    ]


def _empty(sysroot: str) -> None:
    """Delete links of before, but not the directory: another task may have mounted something there.

    To delete it would take that away (rename(2): a mount point elsewhere is detached).
    """
    os.makedirs(sysroot, exist_ok=True)
    for name in os.listdir(sysroot):
        bb.utils.remove(os.path.join(sysroot, name), recurse=True)


def _enter_current(d: Any, generations: Generations) -> None:
    """Enter the current generation, when nobody changes it any more."""
    while True:
        try:
            with generations.locked():
                current = generations.current()
                if current is None:
                    return None
                try:
                    return _enter(current, writable=_is_writable(d))
                except StoreDamaged:  # something of it was collected
                    _plan_again(d, generations, current)
        except InUse:
            time.sleep(_LOOK_AGAIN)


def _plan_again(d: Any, generations: Generations, current: Generation) -> None:
    try:
        plans = composed(d, current.wanted)
    except Outdated:
        bb.note("The sysroots of another build are not mounted: they are about to be prepared anew")
        generations.forget()
        return
    uppers = {plan.target: plan.upper for plan in current.plans}
    again = (plan._replace(upper=uppers[plan.target]) for plan in plans)
    current._replace(plans=tuple(again)).save()


def _enter(generation: Generation, *, writable: bool) -> None:
    """Mount sysroots in this process, until it ends. Raises NoStrategy, InUse, StoreDamaged."""
    plans = [plan._replace(writable=writable) for plan in generation.plans]
    for plan in plans:
        os.makedirs(plan.target, exist_ok=True)
    _HELD.extend(enter(plans, "a task of BitBake", inherited=False))


def _enter_and_furnish(
    d: Any, stock: Stock, generation: Generation, added: Sequence[Component]
) -> str:
    _enter(generation, writable=True)
    return furnish(d, stock.relocate, generation, added)


def _in_child(work: Callable[[], str]) -> str:
    """Do something in a child, since this process is not to be where it is done.

    Raises what it raises.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        result: str | Exception = RuntimeError("it was ended")
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
        bb.fatal("A process that prepared sysroots was killed")
    result = pickle.loads(data)
    if isinstance(result, Exception):
        raise result
    assert isinstance(result, str)
    return result
