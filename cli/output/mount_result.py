"""The result of mounting a sysroot, as JSON and as text."""

from __future__ import annotations

import os

from cas.compose.composition import Composition
from cli.output.documents import conflict_documents
from cli.output.printing import text_of
from mounter.mounting import Mount


def mount_document(made: Mount, composition: Composition) -> dict[str, object]:
    """Return a mounted sysroot as a JSON value."""
    return {
        "target": os.fsdecode(made.target),
        "strategy": made.strategy.value,
        "reasons": list(made.reasons),
        "ids": list(composition.ids),
        "conflicts": conflict_documents(composition.conflicts),
    }


def mount_line(made: Mount) -> str:
    """Return a line with the target, the strategy, and the refusals of others."""
    reasons = f" ({'; '.join(made.reasons)})" if made.reasons else ""
    return f"{text_of(made.target)}: {made.strategy.value}{reasons}"
