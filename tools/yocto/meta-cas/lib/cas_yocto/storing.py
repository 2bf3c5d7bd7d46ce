"""Putting what do_populate_sysroot has made into the store."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import bb

from cas_yocto.command import CommandFailed, cas

TASK = "do_populate_sysroot"
_NO_SIGNATURE, _CONFLICT = 3, 4
"""Exit codes of `cas`."""


class Component(NamedTuple):
    """A recipe's directory `tree` in `sysroots-components`, and what names its content."""

    recipe: str
    arch: str
    hash: str
    tree: str

    @property
    def id(self) -> str:
        """The task signature."""
        return f"{self.recipe}:{self.arch}:{TASK}:{self.hash}"


def component(d: Any, recipe: str, arch: str, unihash: str, tree: str) -> Component:
    """Return the component of a recipe whose sstate is of the architecture `arch`.

    uninative makes programs that run on the building machine use a loader in this very TMPDIR,
    which their hash does not tell: so the architecture does.
    """
    loader = d.getVar("UNINATIVE_LOADER")
    if loader and is_native(recipe) and bb.data.inherits_class("uninative", d):
        arch += "." + hashlib.sha256(loader.encode()).hexdigest()[:8]
    return Component(recipe, arch, unihash, tree)


def is_native(recipe: str) -> bool:
    """Tell by a recipe's name, as OpenEmbedded does, whether it is for the building machine."""
    return recipe.endswith("-native") or "-cross-" in recipe or "-crosssdk" in recipe


def arch_of(recipe: str, manifest: str) -> str:
    """Return the architecture that is in the path of a recipe's manifest of sstate."""
    return os.path.basename(manifest).removeprefix("manifest-").split(f"-{recipe}")[0]


def put_own(d: Any) -> None:
    """Put what this recipe's task has made, or restored from sstate.

    If that fails the build goes on: whoever needs it tries again, or links.
    """
    recipe = d.getVar("PN")
    tree = d.expand("${COMPONENTS_DIR}/${PACKAGE_ARCH}/${PN}")
    if os.path.isdir(tree):
        arch = arch_of(recipe, d.getVar("SSTATE_MANFILEPREFIX"))
        own = component(d, recipe, arch, d.getVar("BB_UNIHASH"), tree)
        try:
            put([own], d)
        except CommandFailed as error:
            store = d.getVar("CAS_STORE")
            bb.warn(f"{recipe}: its sysroot was not put into the store {store}: {error}")


def put(components: Sequence[Component], d: Any) -> None:
    """Make sure that components are in the store, and note that this build uses them.

    What is stored under a name stays, also where it is not the same byte by byte: BitBake takes
    one for the other too. Raises CommandFailed.
    """
    for one in components:
        _note(one, d)
    missing = {one.id: one for one in components}
    if missing:
        said = cas(d, "has", "--json", *missing, codes=(0, _NO_SIGNATURE))
        for name in json.loads(said)["missing"]:
            tree = missing[name].tree
            cas(d, "put", "--component", name, tree, codes=(0, _CONFLICT))  # others put it, too


def _note(one: Component, d: Any) -> None:
    """Keep a component in the list of what this build needs, instead of an older one."""
    directory = os.path.join(d.getVar("TMPDIR"), "cas-ids")
    bb.utils.mkdirhier(directory)
    path = os.path.join(directory, f"{one.arch}-{one.recipe}")
    beside = f"{path}.{os.getpid()}"
    with open(beside, "w") as file:
        file.write(f"{one.id}\n")
    os.replace(beside, path)
