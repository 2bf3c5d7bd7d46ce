"""`cas doctor`: checks the machine and the store."""

from __future__ import annotations

import os
import tempfile

import click

from cas.errors import CasError, ExitCode
from cas.index.format import NoStore
from cas.store import Store
from cas.system.text import quoted
from cli.options.common import standard_options
from cli.options.settings import store_path
from cli.output.printing import emit
from cli.output.progress import progress
from cli.output.quantities import number_of
from mounter.probe import ProbeResult, probe


@click.command("doctor")
@standard_options
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Check this machine and the store.

    \b
    cas doctor
    """
    path = os.path.realpath(store_path(ctx))
    place = _writable(os.fsencode(path))
    with progress("Trying links", "links") as show:
        findings = list(probe(place, show))
    if os.path.exists(path) and not place.startswith(os.fsencode(path)):
        where = f"read-only for this user; the checks above used {quoted(place)}"
        findings.append(ProbeResult("store writable", False, where))
    store, code = _store_health(path)
    findings.append(store)
    width = max(len(finding.name) for finding in findings)
    emit(
        as_json,
        [{"name": f.name, "works": f.works, "detail": f.detail} for f in findings],
        [
            f"{f.name.ljust(width)}  {'yes' if f.works else 'no '}  {f.detail}".rstrip()
            for f in findings
        ],
    )
    ctx.exit(code)


def _writable(store: bytes) -> bytes:
    """Return the directory for the checks.

    It is the store's `tmp`, or the directory in which the store would be created, or, if that is
    not writable, the directory for temporary files.
    """
    if os.path.isdir(os.path.join(store, b"tmp")):
        store = os.path.join(store, b"tmp")
    while not os.path.isdir(store):
        store = os.path.dirname(store)
    return store if os.access(store, os.W_OK) else os.fsencode(tempfile.gettempdir())


def _store_health(path: str) -> tuple[ProbeResult, int]:
    try:
        with Store(path) as store:
            problems = [
                str(finding) for finding in store.verify(quick=True) if finding.kind.is_damage
            ]
            count = len(store.artifacts())
    except NoStore as error:
        return ProbeResult("store", True, f"{error.message}; {error.hint}"), ExitCode.DONE
    except CasError as error:
        return ProbeResult("store", False, error.message), error.exit_code
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return ProbeResult("store", False, problems[0] + more), ExitCode.DAMAGED
    return ProbeResult(
        "store", True, f"{quoted(path)}: {number_of(count, 'artifact')}, format 1"
    ), ExitCode.DONE
