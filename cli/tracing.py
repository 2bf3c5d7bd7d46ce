"""`cas run --trace`: what of its sysroots a command used, as a document."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence

from cas.errors import CasError, InputRefused
from cas.progress import Progress
from cli.options import note, text_of
from mounter.isolation import Sandbox
from mounter.plan import Plan
from mounter.running import run_plans
from mounter.tracing import Tracer
from mounter.usage import Used, untouched


def run_traced(
    path: str,
    command: Sequence[str],
    plans: Sequence[Plan],
    sandbox: Sandbox,
    progress: Progress,
) -> int:
    """Run a command like `run_plans`; write to the file at `path` what it used; return its code.

    The file is opened first, and is empty until the command ends. What goes wrong afterwards is
    told, and changes nothing. Raises TraceRefused, and what `run_plans` raises.
    """
    with open(path, "wb", buffering=0) as file, Tracer(plans, sandbox.binds) as tracer:
        if not tracer.complete:
            note("a new path in a sysroot hides from --trace what else is in that directory")
        code = run_plans(command, plans, note, sandbox, tracer, progress)
        try:
            _write(file.fileno(), json.dumps(_document(plans, tracer, code), indent=2) + "\n")
        except (CasError, OSError, MemoryError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error) or "no memory"
            note(f"what the command used could not be written to {text_of(path)}: {why}")
    return code


def _write(fd: int, text: str) -> None:
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and not found.st_nlink:
        raise InputRefused("it was removed meanwhile")
    with open(fd, "w", closefd=False) as file:
        file.write(text)


def _document(plans: Sequence[Plan], tracer: Tracer, code: int) -> dict[str, object]:
    return {
        "complete": tracer.complete,
        "exit_code": code,
        "sysroots": [_sysroot(plan, tracer.used(plan), tracer.complete) for plan in plans],
    }


def _sysroot(plan: Plan, used: Sequence[Used], complete: bool) -> dict[str, object]:
    return {
        "target": os.fsdecode(plan.target),
        "artifacts": [_artifact(one) for one in used],
        "untouched": untouched(used) if complete else None,
    }


def _artifact(used: Used) -> dict[str, object]:
    return {
        "id": used.id,
        "files": used.files,
        "opened": len(used.opened),
        "links": used.links,
        "paths": list(map(os.fsdecode, used.opened)),
    }
