"""What differs from recipe to recipe in a sysroot: relocated files, and what scripts make."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import bb

from cas.disk.layout import layer_path
from cas.exchange.sstate import FIXMES
from cas_yocto.sysroot_dirs import Generation
from cas_yocto.upload import Component
from mounter.plan import read_manifest

Relocate = Callable[[Sequence[str], str, str, str, Any], None]
"""OpenEmbedded's staging_processfixme."""


def furnish(d: Any, relocate: Relocate, generation: Generation, added: Sequence[Component]) -> str:
    """Relocate files, and run scripts, of components that were added; return what scripts said.

    The sysroots are mounted, and take changes. Raises OSError, CalledProcessError.
    """
    ids = {one.id for one in added}
    native = d.getVar("RECIPE_SYSROOT_NATIVE")
    scripts: list[str] = []
    for plan in generation.plans:
        sysroot = os.fsdecode(plan.target)
        lists: list[str] = []
        for artifact in plan.artifacts:
            if artifact.id in ids:
                layer = os.path.join(plan.store, layer_path(artifact.tree))
                for path in read_manifest(plan.store, artifact.tree).nodes:
                    if path.startswith(FIXMES + b"/"):
                        lists.append(os.fsdecode(os.path.join(layer, path)))
                    elif b"/usr/bin/postinst-" in b"/" + path:
                        scripts.append(os.path.join(sysroot, os.fsdecode(path)))
        relocate(lists, sysroot, d.getVar("RECIPE_SYSROOT"), native, d)
    said = ""
    for script in sorted(scripts):
        done = subprocess.run([script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            bb.fatal(f"{d.getVar('PN')}: {script} ended with {done.returncode}:\n{done.stdout}")
        said += f"Running postinst {script}, output:\n{done.stdout}"
    return said
