"""What belongs into the sysroots of a task, and how they are mounted."""

from __future__ import annotations

import os
from typing import Any

import bb
import oe.sstatesig

from cas.errors import ExitCode
from cas_yocto.command import CommandFailed, cas
from cas_yocto.dependencies import DepValid, needed
from cas_yocto.upload import (
    Component,
    component,
    is_current,
    is_native,
    missing,
    put,
)
from mounter.plan import NoStrategy, Plan

Wanted = dict[str, dict[str, Component]]
"""For each sysroot with anything in it, by its path, its components by their recipes."""
_OFTEN = 3


class Outdated(Exception):
    """A component is not in the store, and what its directory has by now may be another one."""


def wanted_by(d: Any, depvalid: DepValid) -> Wanted:
    """Return what a task needs in its sysroots, as BB_TASKDEPDATA tells; it is in the store then.

    Raises CommandFailed.
    """
    native, target = d.getVar("RECIPE_SYSROOT_NATIVE"), d.getVar("RECIPE_SYSROOT")
    wanted: Wanted = {}
    entries = d.getVar("BB_TASKDEPDATA", False)
    multilibs: dict[str, Any] = {}
    for tid in needed(d, depvalid):
        recipe, _, file, *_ = entries[tid]
        manifest, other = oe.sstatesig.find_sstate_manifest(
            recipe, file, "populate_sysroot", d, multilibs
        )
        tree = manifest and _component_of(manifest, d)
        if not tree:  # it made nothing
            continue
        sysroot = target
        if is_native(recipe):
            sysroot = native
        elif other is not d and "allarch" not in manifest:  # of a multilib, beside the other one
            other.setVar("WORKDIR", d.getVar("WORKDIR"))
            sysroot = other.getVar("RECIPE_SYSROOT")
        found = component(d, recipe, manifest, entries[tid][6], tree)
        wanted.setdefault(sysroot, {})[recipe] = found
    if wanted:
        put(_components(wanted), d)
    return wanted


def composed(d: Any, wanted: Wanted) -> list[Plan]:
    """Return plans to mount sysroots.

    Ends the task if two components bring different things at one path. Raises Outdated,
    NoStrategy (the kernel does not mount them), CommandFailed.
    """
    for _ in range(_OFTEN):
        try:
            return [_plan(d, sysroot, wanted[sysroot]) for sysroot in sorted(wanted)]
        except CommandFailed as error:
            gone = missing(_components(wanted), d)
            if not gone:
                raise
            if any(not is_current(one, d) for one in gone):
                raise Outdated from error
            put(gone, d)  # a collection has come between
    raise Outdated


def _plan(d: Any, sysroot: str, components: dict[str, Component]) -> Plan:
    names = "".join(f"{components[recipe].id}\n" for recipe in sorted(components))
    options = ("--private", "--strategy", "overlay", "--conflicts", "error", "--json")
    try:
        return Plan.load(cas(d, "plan", *options, sysroot, "--from", "-", input=names))
    except CommandFailed as error:
        if error.code == ExitCode.NO_STRATEGY:
            raise NoStrategy(os.fsencode(sysroot), [error.reason]) from error
        if error.code == ExitCode.CONFLICT:
            said = str(error).partition("\nhint:")[0]
            bb.fatal(f"{d.getVar('PN')}: recipes in {sysroot} are in conflict: {said}")
        raise


def _components(wanted: Wanted) -> list[Component]:
    return [one for components in wanted.values() for one in components.values()]


def _component_of(manifest: str, d: Any) -> str | None:
    """Return the directory in `sysroots-components` of what a manifest of sstate lists."""
    beginning = d.getVar("COMPONENTS_DIR") + "/"
    with open(manifest) as file:
        for line in file:
            if line.startswith(beginning):
                arch, recipe, *_ = line.strip().removeprefix(beginning).split("/")
                return f"{beginning}{arch}/{recipe}"
    return None
