"""Stores the results of do_populate_sysroot, and pushes them to a remote."""

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

_ID_NOTES = "cas-ids"
"""The directory of the IDs that this build needs; users may delete it, so the list can be reset."""
_CURRENT_NOTES = "cas-current"
"""The directory of the IDs that name the present content of component directories."""


class Component(NamedTuple):
    """A recipe's directory `tree` in `sysroots-components`, and the parts of its ID."""

    recipe: str
    arch: str
    hash: str
    tree: str

    @property
    def id(self) -> str:
        """The artifact's ID."""
        return str(Signature(self.recipe, self.arch, TASK, self.hash))


def make_component(d: Any, recipe: str, manifest: str, unihash: str, tree: str) -> Component:
    """Return a recipe's component, with the architecture from the name of its sstate manifest."""
    name = os.path.basename(manifest).removesuffix(".populate_sysroot")
    arch = name.removeprefix("manifest-").removesuffix(f"-{recipe}")
    loader = d.getVar("UNINATIVE_LOADER")
    if loader and is_native(recipe) and bb.data.inherits_class("uninative", d):
        # uninative makes native programs use a loader in this TMPDIR, which the hash does not
        # cover. So the loader becomes a part of the architecture.
        arch += "." + hashlib.sha256(loader.encode()).hexdigest()[:8]
    return Component(recipe, arch, unihash, tree)


def is_native(recipe: str) -> bool:
    """Return whether a recipe is for the build machine; OpenEmbedded also goes by the name."""
    return recipe.endswith("-native") or "-cross-" in recipe or "-crosssdk" in recipe


def forget_own_component(d: Any) -> None:
    """Note that this recipe's component is about to change, so its ID no longer names it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_note_path(_own_component(d), _CURRENT_NOTES, d))


def store_own_component(d: Any, *, restored: bool) -> None:
    """Store the result of this recipe's task, which was built, or `restored` from sstate.

    A built result replaces an older one of the same ID. If storing fails, warns only: tasks that
    need the component store it themselves, or link.
    """
    own = _own_component(d)
    if os.path.isdir(own.tree):
        try:
            if restored:
                store_components([own], d, remote=d.getVar("CAS_REMOTE"))
            else:
                cas(d, "put", "--replace", "--component", own.id, own.tree)
                _write_notes(own, d)
        except CommandFailed as error:
            store = d.getVar("CAS_STORE")
            bb.warn(f"{own.recipe}: its sysroot was not stored in {store}: {error}")


def store_components(components: Sequence[Component], d: Any, *, remote: str = "") -> None:
    """Store the components that the store lacks; BitBake has just made sure they are up to date.

    Those that a `remote` has are pulled, which needs a task with network access. Raises
    CommandFailed.
    """
    # CONFLICT: another task or build has stored a different result of the same ID.
    accepted = (ExitCode.DONE, ExitCode.CONFLICT)
    for component in missing_components(components, d, remote=remote):
        cas(d, "put", "--component", component.id, component.tree, codes=accepted)
    for component in components:
        if not (is_current(component, d) and os.path.exists(_note_path(component, _ID_NOTES, d))):
            _write_notes(component, d)


def push_components(d: Any) -> None:
    """Push the components that this build needs and its store has; warn if that fails."""
    remote, key = d.getVar("CAS_REMOTE"), d.getVar("CAS_REMOTE_SIGN_KEY")
    notes = os.path.join(d.getVar("TMPDIR"), _ID_NOTES)
    if not remote or not os.path.isdir(notes):
        return
    ids = []
    for note in sorted(os.listdir(notes)):
        with open(os.path.join(notes, note)) as file:
            ids.append(file.read().strip())
    sign = ["--sign-key", key] if key else []
    try:
        missing = _missing_ids(d, ids)
        present = "".join(f"{id_}\n" for id_ in ids if id_ not in missing)
        cas(d, "push", remote, "--from", "-", *sign, input=present)
    except CommandFailed as error:
        bb.warn(f"sysroots were not pushed to {remote}: {error}")


def missing_components(
    components: Sequence[Component], d: Any, *, remote: str = ""
) -> list[Component]:
    """Return the components that neither the store nor a `remote` has. Raises CommandFailed."""
    by_id = {component.id: component for component in components}
    return [by_id[id_] for id_ in _missing_ids(d, by_id, remote)]


def _missing_ids(d: Any, ids: Iterable[str], remote: str = "") -> list[str]:
    pull = ["--remote", remote] if remote else []
    output = cas(d, "has", "--json", *pull, *ids, codes=(ExitCode.DONE, ExitCode.NO_SIGNATURE))
    missing: list[str] = json.loads(output)["missing"]
    return missing


def is_current(component: Component, d: Any) -> bool:
    """Return whether a component's directory still has the content that its ID names."""
    path = _note_path(component, _CURRENT_NOTES, d)
    with contextlib.suppress(FileNotFoundError), open(path) as file:
        return file.read() == f"{component.id}\n"
    return False


def _own_component(d: Any) -> Component:
    tree = d.expand("${COMPONENTS_DIR}/${PACKAGE_ARCH}/${PN}")
    manifest = d.getVar("SSTATE_MANFILEPREFIX")
    return make_component(d, d.getVar("PN"), manifest, d.getVar("BB_UNIHASH"), tree)


def _write_notes(component: Component, d: Any) -> None:
    """Note a component's ID as needed by this build, and as that of its directory's content."""
    for directory in (_ID_NOTES, _CURRENT_NOTES):
        path = _note_path(component, directory, d)
        bb.utils.mkdirhier(os.path.dirname(path))
        staging = f"{path}.{os.getpid()}"
        with open(staging, "w") as file:
            file.write(f"{component.id}\n")
        os.replace(staging, path)


def _note_path(component: Component, directory: str, d: Any) -> str:
    return os.path.join(d.getVar("TMPDIR"), directory, f"{component.recipe}:{component.arch}")
