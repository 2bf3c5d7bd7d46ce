"""Stands in for a module of OpenEmbedded's library."""

from __future__ import annotations

import os
from typing import Any


def find_sstate_manifest(
    recipe: str, file: str, task: str, d: Any, multilibs: dict[str, Any]
) -> tuple[str | None, Any]:
    """Return where the manifest of a recipe's task is."""
    arch = d.getVar("BUILD_ARCH") if recipe.endswith("-native") else d.getVar("PACKAGE_ARCH")
    path = d.expand("${SSTATE_MANIFESTS}") + f"/manifest-{arch}-{recipe}.{task}"
    return (path if os.path.exists(path) else None), d
