"""Sysroots of a recipe: composed when its dependencies are known, and mounted in each task.

What differs from recipe to recipe, relocated files and what scripts have made, is in upper
directories. They are filled once, in sysroots that take changes; later tasks see them, and change
nothing. Further dependencies of a task make a new generation, with a copy of them.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import bb

from cas.errors import InUse, StoreDamaged
from cas.layout import layer_path
from cas_yocto.command import CommandFailed
from cas_yocto.composing import Wanted, composed, wanted_by
from cas_yocto.dependencies import DepValid
from cas_yocto.generations import Generation, Generations
from cas_yocto.storing import Component
from mounter.executing import enter
from mounter.plan import NoStrategy

_PREPARING = "do_prepare_recipe_sysroot"
_FIXMES = "sysroot-fixmepath"
"""Where `cas put --component` puts the list of a recipe's files to relocate."""
_MODES = ("mount", "writable", "link")
_LOOK_AGAIN = 0.05  # seconds

Relocate = Callable[[Sequence[str], str, str, str, Any], None]


class Stock(NamedTuple):
    """What OpenEmbedded's classes have: setscene_depvalid, staging_processfixme, and linking."""

    depvalid: DepValid
    relocate: Relocate
    link: Callable[[], None]


def extend(d: Any, stock: Stock) -> None:
    """Let a task's sysroots have what it needs; its process sees them from now on."""
    generations = _generations(d)
    why = _why_linked(d, generations)
    if why is None:
        try:
            _extend(d, stock, generations)
            return
        except NoStrategy as refusal:
            why = "; ".join(refusal.reasons)
        except CommandFailed as error:
            why = error.reason
        if not _is_preparing(d) and generations.current() is not None:
            _end(d, why)
    if why:
        bb.note(f"{d.getVar('PN')}: its sysroots are linked, not mounted: {why}")
    generations.forget()
    stock.link()


def mount(d: Any) -> None:
    """Mount the sysroots that were prepared, if any were, where only this task sees them."""
    generations = _generations(d)
    if generations.current() is not None:
        try:
            _enter_current(d, generations)
        except NoStrategy as refusal:
            _end(d, "; ".join(refusal.reasons))
        except CommandFailed as error:
            _end(d, str(error))


def _end(d: Any, why: str) -> None:
    recipe, task = d.getVar("PN"), d.getVar("BB_RUNTASK")
    bb.fatal(
        f"{recipe}: its sysroots cannot be mounted in {task}: {why}. "
        f'Let it have links: CAS_SYSROOT:pn-{recipe} = "link"'
    )


def _generations(d: Any) -> Generations:
    return Generations(d.expand("${WORKDIR}/cas-sysroots"))


def _is_preparing(d: Any) -> bool:
    return bool(d.getVar("BB_RUNTASK") == _PREPARING)


def _why_linked(d: Any, generations: Generations) -> str | None:
    """Return why a recipe's sysroots are to be linked, "" if nobody need be told; else None."""
    recipe, mode = d.getVar("PN"), d.getVar("CAS_SYSROOT")
    if mode not in _MODES:
        bb.fatal(f"{recipe}: CAS_SYSROOT is {mode!r}: it has to be one of {', '.join(_MODES)}")
    if d.getVar("BB_LIMITEDDEPS"):  # bitbake -b, which knows of no dependencies
        return ""
    if mode == "link":
        return "CAS_SYSROOT says so"
    if _matches(recipe, d.getVar("CAS_SYSROOT_LINKED")):
        return "CAS_SYSROOT_LINKED names it"
    linked = os.path.isdir(d.expand("${RECIPE_SYSROOT_NATIVE}/installeddeps"))
    if linked and not _is_preparing(d) and generations.current() is None:
        return ""  # like those that were prepared
    return None


def _is_writable(d: Any) -> bool:
    named = _matches(d.getVar("PN"), d.getVar("CAS_SYSROOT_WRITABLE"))
    return bool(named or d.getVar("CAS_SYSROOT") == "writable")


def _matches(recipe: str, patterns: str) -> bool:
    return any(re.fullmatch(pattern, recipe) for pattern in patterns.split())


def _extend(d: Any, stock: Stock, generations: Generations) -> None:
    wanted = wanted_by(d, stock.depvalid)
    with generations.locked():
        old = None if _is_preparing(d) else generations.current()
        before = old.wanted if old else {}
        wanted = _united(before, wanted)
        if _is_preparing(d):
            for name in ("RECIPE_SYSROOT", "RECIPE_SYSROOT_NATIVE"):  # links of before
                bb.utils.remove(d.getVar(name), recurse=True)
                bb.utils.mkdirhier(d.getVar(name))
        if not wanted:
            generations.forget()
        elif _is_preparing(d) or wanted != before:
            plans = composed(d, wanted)
            new = generations.begin(wanted, plans, old)
            added = _added(new, old)
            if _is_preparing(d):
                _enter(new, writable=True)  # for functions that come after this one, too
                said = _furnish(d, stock, new, added)
            else:
                said = _in_child(lambda: _enter_and_furnish(d, stock, new, added))
            if said:
                bb.note(said)
            generations.publish(new)
            bb.note(f"Mounted in the sysroots: {', '.join(sorted(one.id for one in added))}")
    if not _is_preparing(d) and wanted:
        _enter_current(d, generations)


def _united(old: Wanted, new: Wanted) -> Wanted:
    return {sysroot: old.get(sysroot, {}) | new.get(sysroot, {}) for sysroot in {**old, **new}}


def _added(new: Generation, old: Generation | None) -> list[Component]:
    """Return the components whose files have to be relocated, and scripts to be run."""
    before = old.wanted if old else {}
    return [
        one
        for sysroot, components in new.wanted.items()
        for recipe, one in components.items()
        if before.get(sysroot, {}).get(recipe) != one
    ]


def _enter_current(d: Any, generations: Generations) -> None:
    """Enter the current generation, when nobody changes it any more."""
    while True:
        try:
            with generations.locked():
                current = generations.current()
                assert current is not None
                try:
                    return _enter(current, writable=_is_writable(d))
                except StoreDamaged:  # something of it was collected
                    plans = composed(d, current.wanted)
                    kept = {plan.target: plan.upper for plan in current.plans}
                    plans = [plan._replace(upper=kept[plan.target]) for plan in plans]
                    current._replace(plans=tuple(plans)).save()
        except InUse:
            time.sleep(_LOOK_AGAIN)


def _enter(generation: Generation, *, writable: bool) -> None:
    """Mount sysroots in this process, until it ends. Raises NoStrategy, InUse, StoreDamaged."""
    plans = [plan._replace(writable=writable) for plan in generation.plans]
    for plan in plans:
        os.makedirs(plan.target, exist_ok=True)
    for lease in enter(plans, "a task of BitBake", inherited=False):
        _HELD.append(lease)


_HELD: list[object] = []
"""Leases of this process."""


def _enter_and_furnish(
    d: Any, stock: Stock, generation: Generation, added: Sequence[Component]
) -> str:
    _enter(generation, writable=True)
    return _furnish(d, stock, generation, added)


def _furnish(d: Any, stock: Stock, generation: Generation, added: Sequence[Component]) -> str:
    """Relocate files, and run scripts, of components that were added; return what scripts said."""
    scripts: list[str] = []
    ids = {one.id: one.recipe for one in added}
    for plan in generation.plans:
        lists: list[str] = []
        sysroot = os.fsdecode(plan.target)
        for artifact in plan.artifacts:
            layer = os.path.join(os.fsdecode(plan.store), os.fsdecode(layer_path(artifact.tree)))
            if artifact.id in ids:
                lists += glob.glob(f"{glob.escape(layer)}/{_FIXMES}/*")
                found = glob.glob("usr/bin/postinst-*", root_dir=layer)
                scripts += [os.path.join(sysroot, path) for path in found]
        native = d.getVar("RECIPE_SYSROOT_NATIVE")
        stock.relocate(lists, sysroot, d.getVar("RECIPE_SYSROOT"), native, d)
    said = ""
    for script in sorted(scripts):
        done = subprocess.run([script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said += f"Running postinst {script}, output:\n{done.stdout}"
        if done.returncode:
            bb.fatal(f"{d.getVar('PN')}: {script} ended with {done.returncode}:\n{done.stdout}")
    return said


def _in_child(work: Callable[[], str]) -> str:
    """Do something in a child, since this process is not to be where it is done."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            said = work()
            code = 0
        except BaseException:
            said = traceback.format_exc()
        finally:
            with open(writing, "w") as file:
                file.write(said)
            os._exit(code)
    os.close(writing)
    with open(reading) as file:
        said = file.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        bb.fatal(said)
    return said
