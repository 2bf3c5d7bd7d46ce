"""Putting what do_populate_sysroot has made into the store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import bb

from cas.errors import ExitCode
from cas.exchange.sstate import TASK
from cas.model.signature import Signature
from cas_yocto.command import CommandFailed, cas


class Component(NamedTuple):
    """A recipe's directory `tree` in `sysroots-components`, and what names its content."""

    recipe: str
    arch: str
    hash: str
    tree: str

    @property
    def id(self) -> str:
        """The task signature."""
        return str(Signature(self.recipe, self.arch, TASK, self.hash))


def component(d: Any, recipe: str, manifest: str, unihash: str, tree: str) -> Component:
    """Return the component of a recipe, whose manifest of sstate is named by its architecture too.

    uninative makes programs that run on the building machine use a loader in this very TMPDIR,
    which their hash does not tell: so the architecture does.
    """
    name = os.path.basename(manifest).removesuffix(".populate_sysroot")
    arch = name.removeprefix("manifest-").removesuffix(f"-{recipe}")
    loader = d.getVar("UNINATIVE_LOADER")
    if loader and is_native(recipe) and bb.data.inherits_class("uninative", d):
        arch += "." + hashlib.sha256(loader.encode()).hexdigest()[:8]
    return Component(recipe, arch, unihash, tree)


def is_native(recipe: str) -> bool:
    """Tell by a recipe's name, as OpenEmbedded does, whether it is for the building machine."""
    return recipe.endswith("-native") or "-cross-" in recipe or "-crosssdk" in recipe


def forget_own(d: Any) -> None:
    """Note that this recipe's component is about to change, and is not what its ID says now."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(_own(d), "cas-current", d))


def put_own(d: Any, *, restored: bool) -> None:
    """Put what this recipe's task has made, or `restored` from sstate.

    What was made counts, even if the same hash had another result before. If that fails the build
    goes on: whoever needs it tries again, or links.
    """
    own = _own(d)
    if os.path.isdir(own.tree):
        try:
            if restored:
                put([own], d, remote=d.getVar("CAS_REMOTE"))
            else:
                cas(d, "put", "--replace", "--component", own.id, own.tree)
                _note(own, d)
        except CommandFailed as error:
            store = d.getVar("CAS_STORE")
            bb.warn(f"{own.recipe}: its sysroot was not put into the store {store}: {error}")


def put(components: Sequence[Component], d: Any, *, remote: str = "") -> None:
    """Make sure that components are in the store, which BitBake has just told to be up to date.

    They are pulled from a `remote` if it has them, for which a task needs the network. Raises
    CommandFailed.
    """
    put_by_anybody = (ExitCode.DONE, ExitCode.CONFLICT)
    for one in missing(components, d, remote=remote):
        cas(d, "put", "--component", one.id, one.tree, codes=put_by_anybody)
    for one in components:
        if not (is_current(one, d) and os.path.exists(_path(one, "cas-ids", d))):
            _note(one, d)


def push_all(d: Any) -> None:
    """Push what this build needs and has in its store. That it cannot is a warning."""
    remote, key = d.getVar("CAS_REMOTE"), d.getVar("CAS_REMOTE_SIGN_KEY")
    notes = os.path.join(d.getVar("TMPDIR"), "cas-ids")
    if not remote or not os.path.isdir(notes):
        return
    names = []
    for note in sorted(os.listdir(notes)):
        with open(os.path.join(notes, note)) as file:
            names.append(file.read().strip())
    sign = ["--sign-key", key] if key else []
    try:
        gone = _missing(d, names)
        there = "".join(f"{name}\n" for name in names if name not in gone)
        cas(d, "push", remote, "--from", "-", *sign, input=there)
    except CommandFailed as error:
        bb.warn(f"sysroots were not pushed to {remote}: {error}")


def missing(components: Sequence[Component], d: Any, *, remote: str = "") -> list[Component]:
    """Return the components that are not in the store, nor in a `remote`. Raises CommandFailed."""
    by_id = {one.id: one for one in components}
    return [by_id[name] for name in _missing(d, by_id, remote)]


def _missing(d: Any, names: Iterable[str], remote: str = "") -> list[str]:
    pull = ["--remote", remote] if remote else []
    said = cas(d, "has", "--json", *pull, *names, codes=(ExitCode.DONE, ExitCode.NO_SIGNATURE))
    absent: list[str] = json.loads(said)["missing"]
    return absent


def is_current(one: Component, d: Any) -> bool:
    """Tell whether a component is still what its ID says, and not what another task made of it."""
    with contextlib.suppress(FileNotFoundError), open(_path(one, "cas-current", d)) as file:
        return file.read() == f"{one.id}\n"
    return False


def _own(d: Any) -> Component:
    tree = d.expand("${COMPONENTS_DIR}/${PACKAGE_ARCH}/${PN}")
    manifest = d.getVar("SSTATE_MANFILEPREFIX")
    return component(d, d.getVar("PN"), manifest, d.getVar("BB_UNIHASH"), tree)


def _note(one: Component, d: Any) -> None:
    """Note what a component is, also in the list of what this build needs, which one may delete."""
    for directory in ("cas-ids", "cas-current"):
        path = _path(one, directory, d)
        bb.utils.mkdirhier(os.path.dirname(path))
        beside = f"{path}.{os.getpid()}"
        with open(beside, "w") as file:
            file.write(f"{one.id}\n")
        os.replace(beside, path)


def _path(one: Component, directory: str, d: Any) -> str:
    return os.path.join(d.getVar("TMPDIR"), directory, f"{one.recipe}:{one.arch}")
