"""Prepares what differs from recipe to recipe: relocated files, and files made by scripts."""

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


def prepare_files(
    d: Any, relocate: Relocate, generation: Generation, added: Sequence[Component]
) -> str:
    """Relocate files of the added components, and run their scripts; return the scripts' output.

    The sysroots are mounted writable. Raises OSError, CalledProcessError.
    """
    ids = {component.id for component in added}
    native = d.getVar("RECIPE_SYSROOT_NATIVE")
    scripts: list[str] = []
    for plan in generation.plans:
        sysroot = os.fsdecode(plan.target)
        fixme_lists: list[str] = []
        for artifact in plan.artifacts:
            if artifact.id in ids:
                layer = os.path.join(plan.store, layer_path(artifact.tree))
                for path in read_manifest(plan.store, artifact.tree).nodes:
                    if path.startswith(FIXMES + b"/"):
                        fixme_lists.append(os.fsdecode(os.path.join(layer, path)))
                    elif b"/usr/bin/postinst-" in b"/" + path:
                        scripts.append(os.path.join(sysroot, os.fsdecode(path)))
        relocate(fixme_lists, sysroot, d.getVar("RECIPE_SYSROOT"), native, d)
    output = ""
    for script in sorted(scripts):
        done = subprocess.run([script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            bb.fatal(f"{d.getVar('PN')}: {script} failed ({done.returncode}):\n{done.stdout}")
        output += f"Running postinst {script}, output:\n{done.stdout}"
    return output
