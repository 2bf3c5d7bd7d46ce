"""`cas verify`: checks and repairs the store."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from cas.content.findings import FaultKind, Finding
from cas.errors import ExitCode, StoreDamaged
from cas.index.format import restore_store
from cas.store import Store
from cas.verify.index_check import index_damage
from cas.verify.rebuild_index import rebuild_index
from cli.options.common import complete_id, open_store, standard_options
from cli.options.settings import store_path
from cli.output.interruption import RESUMABLE, summary_on_interrupt
from cli.output.printing import emit, is_quiet
from cli.output.progress import progress
from cli.output.quantities import number_of


@click.command("verify")
@click.argument("ids", metavar="[ID...]", nargs=-1, shell_complete=complete_id)
@click.option("--quick", is_flag=True, help="Check only sizes, times, modes and links.")
@click.option(
    "--repair", is_flag=True, help="Repair damage, or quarantine what cannot be repaired."
)
@standard_options
def verify_command(
    ctx: click.Context, ids: tuple[str, ...], quick: bool, repair: bool, as_json: bool
) -> None:
    """Check the store for damage.

    Reads all artifacts, or only the given IDs. Prints one line for each finding: its kind, its path
    in the store, the fault, and the artifacts that it affects. Exits with 6 if data is damaged.

    Nothing is changed without --repair. It restores damaged data from intact data, or moves it to
    quarantine/ in the store, where no command uses it, and then reports any remaining faults.

    \b
    cas verify
    cas verify --quick
    cas verify --repair
    """
    if repair and quick:
        raise click.UsageError("use --repair without --quick, since it has to read everything", ctx)
    done: list[str] = []
    with summary_on_interrupt(lambda: _repair_summary(done) if repair else "nothing was changed"):
        findings = _check_and_repair(ctx, ids, done, quick=quick, repair=repair, as_json=as_json)
    _show(findings, done, as_json)
    damaged = any(finding.kind.is_damage for finding in findings)
    ctx.exit(ExitCode.DAMAGED if damaged else ExitCode.DONE)


def _check_and_repair(
    ctx: click.Context,
    ids: tuple[str, ...],
    done: list[str],
    *,
    quick: bool,
    repair: bool,
    as_json: bool,
) -> list[Finding]:
    """Return the faults, after a repair with `repair`; its steps are added to `done`."""
    if repair:
        done += _repair_index(store_path(ctx))
    damage = index_damage(store_path(ctx), quick=quick)
    if damage is not None and as_json:
        _show([Finding(FaultKind.INDEX, b"index/data.mdb", damage)], done, as_json)
        ctx.exit(ExitCode.DAMAGED)
    if damage is not None:
        raise StoreDamaged(
            damage, hint="run `cas rebuild-index`, which rebuilds the index from the store"
        )
    store = open_store(ctx)
    findings = _verify(store, ids, quick=quick)
    done += store.repair(findings) if repair else ()
    if done:
        findings = _verify(store, (), quick=False)
    return findings


def _repair_summary(done: list[str]) -> str:
    return f"{number_of(len(done), 'fault')} repaired; {RESUMABLE}"


def _repair_index(store: str) -> Iterator[str]:
    """Restore missing parts of a store, and rebuild a damaged index; yield the steps as text."""
    if not os.path.exists(os.path.join(store, "format")):
        return
    restore_store(os.path.realpath(os.fsencode(store)))
    if index_damage(store, records=True) is not None:
        rebuilt = rebuild_index(store)
        yield from (f"lost {text}" for text in rebuilt.lost)
        yield f"rebuilt the index of {number_of(len(rebuilt.artifacts), 'artifact')}"


def _verify(store: Store, ids: tuple[str, ...], *, quick: bool) -> list[Finding]:
    with progress("Reading contents") as show:
        return list(store.verify(ids, quick=quick, progress=show))


def _show(findings: list[Finding], done: list[str], as_json: bool) -> None:
    damage = sum(finding.kind.is_damage for finding in findings)
    documents = [
        {
            "kind": finding.kind.value,
            "damage": finding.kind.is_damage,
            "path": os.fsdecode(finding.path),
            "what": finding.what,
            "ids": list(finding.signatures),
        }
        for finding in findings
    ]
    summary = "no faults found"
    if findings:
        summary = f"{damage} damaged, {len(findings) - damage} other faults"
    emit(
        as_json,
        {"findings": documents, "repaired": done},
        [*done, *map(str, findings), *(() if is_quiet() else (summary,))],
    )
