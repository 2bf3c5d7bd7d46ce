"""`cas doctor`."""

from __future__ import annotations

import os

import click

from cas.errors import CasError, ExitCode
from cas.quoting import quoted
from cas.store import NoStore, Store
from cli.options import emit, json_option, store_option, store_path
from mounter.probe import Finding, probe


@click.command("doctor")
@json_option
@store_option
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Try what this machine can do, and look at the store.

    \b
    cas doctor
    """
    path = os.path.realpath(store_path(ctx))
    findings = list(probe(_writable(os.fsencode(path))))
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
    """Return the store's `tmp`, or where there is none the directory that it would be made in."""
    if os.path.isdir(os.path.join(store, b"tmp")):
        return os.path.join(store, b"tmp")
    while not os.path.isdir(store):
        store = os.path.dirname(store)
    return store


def _store_health(path: str) -> tuple[Finding, int]:
    try:
        with Store(path) as store:
            problems = list(store.problems())
            count = len(store.artifacts())
    except NoStore as error:
        return Finding("store", True, f"{error.message}; {error.hint}"), ExitCode.DONE
    except CasError as error:
        return Finding("store", False, error.message), error.exit_code
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Finding("store", False, problems[0] + more), ExitCode.DAMAGED
    return Finding("store", True, f"{quoted(path)}: {count} artifacts, format 1"), ExitCode.DONE
