"""The reports of `cas run`: how a command ran, and the files of its sysroots that it used."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Sequence
from io import FileIO

from cas.errors import CasError, InputRefused
from cas.model.conflicts import Conflict
from cas.system.progress import Progress
from cli.output.documents import conflict_documents
from cli.output.printing import note, text_of
from mounter.plan import Plan
from mounter.running import RunResult, run_plans_detailed
from mounter.sandbox.isolation import Sandbox
from mounter.trace.opened_files import ArtifactUse, untouched_ids
from mounter.trace.tracer import Tracer


def run_with_reports(
    command: Sequence[str],
    plans: Sequence[Plan],
    conflicts: Sequence[Sequence[Conflict]],
    sandbox: Sandbox,
    progress: Progress,
    *,
    trace: str | None,
    report: str | None,
) -> int:
    """Run a command like `run_plans`, write the reports, and return the exit code.

    The files at the paths `trace` and `report` are opened first, and are empty until the command
    ends. If they cannot be written then, this is only reported. `conflicts` has the conflicts of
    each plan. Raises TraceRefused, and the exceptions of `run_plans`.
    """
    notes: list[str] = []

    def on_note(text: str) -> None:
        notes.append(text)
        note(text)

    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(open(path, "wb", buffering=0)) if path is not None else None
            for path in (trace, report)
        ]
        tracer = None
        if trace is not None:
            tracer = stack.enter_context(Tracer(plans, [bind.target for bind in sandbox.binds]))
            if not tracer.complete:
                on_note("--trace does not see the files beside a path that is bound into a sysroot")
        began_ns, began = time.time_ns(), time.monotonic()
        ran = run_plans_detailed(command, plans, on_note, sandbox, tracer, progress)
        seconds = round(time.monotonic() - began, 3)
        used = None if tracer is None else _trace_document(plans, tracer, ran.code)
        how = _run_document(plans, conflicts, ran) | {"notes": notes, "trace": used}
        _write(files[0], used)
        _write(files[1], {"began_ns": began_ns, "seconds": seconds} | how)
    return ran.code


def _write(file: FileIO | None, document: object) -> None:
    if file is None:
        return
    try:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and not status.st_nlink:
            raise InputRefused("it was removed meanwhile")
        with open(file.fileno(), "w", closefd=False) as text:
            text.write(json.dumps(document, indent=2) + "\n")
    except (CasError, OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error) or "out of memory"
        note(f"{text_of(os.fsencode(file.name))} could not be written: {reason}")


def _run_document(
    plans: Sequence[Plan], conflicts: Sequence[Sequence[Conflict]], ran: RunResult
) -> dict[str, object]:
    return {
        "exit_code": ran.code,
        "namespaces": ran.namespaces,
        "sysroots": [
            {
                "target": os.fsdecode(plan.target),
                "strategy": strategy.value,
                "ids": [artifact.id for artifact in plan.artifacts],
                "conflicts": conflict_documents(found),
            }
            for plan, strategy, found in zip(plans, ran.strategies, conflicts, strict=True)
        ],
    }


def _trace_document(plans: Sequence[Plan], tracer: Tracer, code: int) -> dict[str, object]:
    return {
        "complete": tracer.complete,
        "exit_code": code,
        "sysroots": [_sysroot(plan, tracer.used(plan), tracer.complete) for plan in plans],
    }


def _sysroot(plan: Plan, used: Sequence[ArtifactUse], complete: bool) -> dict[str, object]:
    return {
        "target": os.fsdecode(plan.target),
        "artifacts": list(map(_artifact, used)),
        "untouched": untouched_ids(used) if complete else None,
    }


def _artifact(used: ArtifactUse) -> dict[str, object]:
    return {
        "id": used.id,
        "files": used.files,
        "opened": len(used.opened),
        "links": used.links,
        "paths": list(map(os.fsdecode, used.opened)),
    }
