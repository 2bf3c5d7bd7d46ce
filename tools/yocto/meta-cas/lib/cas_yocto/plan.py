"""Finds the components of a task's sysroots, and plans how to mount them."""

from __future__ import annotations

import os
from typing import Any

import bb
import oe.sstatesig

from cas.errors import ExitCode
from cas_yocto.command import CommandFailed, cas
from cas_yocto.dependencies import UNIHASH, DepValid, needed_tasks
from cas_yocto.upload import (
    Component,
    is_current,
    is_native,
    make_component,
    missing_components,
    store_components,
)
from mounter.plan import NoStrategy, Plan

SysrootComponents = dict[str, dict[str, Component]]
"""The path of each sysroot that is not empty, with its components by recipe."""
_MAX_ATTEMPTS = 3


class ComponentChanged(Exception):
    """A component is missing from the store, and its directory may have other content by now."""


def find_components(d: Any, depvalid: DepValid) -> SysrootComponents:
    """Return the components that a task needs, by BB_TASKDEPDATA, and store the missing ones.

    Raises CommandFailed.
    """
    native, target = d.getVar("RECIPE_SYSROOT_NATIVE"), d.getVar("RECIPE_SYSROOT")
    sysroots: SysrootComponents = {}
    entries = d.getVar("BB_TASKDEPDATA", False)
    multilibs: dict[str, Any] = {}
    for tid in needed_tasks(d, depvalid):
        recipe, _, file, *_ = entries[tid]
        manifest, recipe_d = oe.sstatesig.find_sstate_manifest(
            recipe, file, "populate_sysroot", d, multilibs
        )
        tree = manifest and _component_directory(manifest, d)
        if not tree:  # the task made no files
            continue
        sysroot = target
        if is_native(recipe):
            sysroot = native
        elif recipe_d is not d and "allarch" not in manifest:  # a multilib has its own sysroot
            recipe_d.setVar("WORKDIR", d.getVar("WORKDIR"))
            sysroot = recipe_d.getVar("RECIPE_SYSROOT")
        component = make_component(d, recipe, manifest, entries[tid][UNIHASH], tree)
        sysroots.setdefault(sysroot, {})[recipe] = component
    if sysroots:
        store_components(_all_components(sysroots), d)
    return sysroots


def make_plans(d: Any, sysroots: SysrootComponents) -> list[Plan]:
    """Return plans to mount sysroots, by path.

    Ends the task if two components have different files at one path. Raises ComponentChanged,
    NoStrategy (the kernel cannot mount them), CommandFailed.
    """
    for _ in range(_MAX_ATTEMPTS):
        try:
            return [_make_plan(d, sysroot, sysroots[sysroot]) for sysroot in sorted(sysroots)]
        except CommandFailed as error:
            missing = missing_components(_all_components(sysroots), d)
            if not missing:
                raise
            if any(not is_current(component, d) for component in missing):
                raise ComponentChanged from error
            store_components(missing, d)  # a collection has removed them
    raise ComponentChanged


def _make_plan(d: Any, sysroot: str, components: dict[str, Component]) -> Plan:
    ids = "".join(f"{components[recipe].id}\n" for recipe in sorted(components))
    options = ("--private", "--strategy", "overlay", "--conflicts", "error", "--json")
    try:
        return Plan.load(cas(d, "plan", *options, sysroot, "--from", "-", input=ids))
    except CommandFailed as error:
        if error.code == ExitCode.NO_STRATEGY:
            raise NoStrategy(os.fsencode(sysroot), [error.reason]) from error
        if error.code == ExitCode.CONFLICT:
            conflicts = str(error).partition("\nhint:")[0]
            bb.fatal(f"{d.getVar('PN')}: recipes in {sysroot} are in conflict: {conflicts}")
        raise


def _all_components(sysroots: SysrootComponents) -> list[Component]:
    return [component for components in sysroots.values() for component in components.values()]


def _component_directory(manifest: str, d: Any) -> str | None:
    """Return the directory in `sysroots-components` that an sstate manifest lists, if any."""
    prefix = d.getVar("COMPONENTS_DIR") + "/"
    with open(manifest) as file:
        for line in file:
            if line.startswith(prefix):
                arch, recipe, *_ = line.strip().removeprefix(prefix).split("/")
                return f"{prefix}{arch}/{recipe}"
    return None
