"""`cas gc`: removes artifacts beyond the limits."""

from __future__ import annotations

import click

from cas.errors import InputRefused
from cas.gc.collector import Doomed, GcPlan
from cas.gc.policy import Policy
from cas.model.signature import Signature
from cas.store import Store
from cli.options.common import open_store, read_ids, standard_options
from cli.output.interruption import RESUMABLE, summary_on_interrupt
from cli.output.printing import acknowledge, emit, note, table
from cli.output.progress import progress
from cli.output.quantities import age, ago_text, number_of, size, size_text


@click.command("gc")
@click.option(
    "--max-age", type=age, metavar="AGE", help="Keep artifacts used within AGE, as in 30d."
)
@click.option(
    "--max-size",
    type=size,
    metavar="SIZE",
    help="Keep the most recently used artifacts that fit in SIZE, as in 50G.",
)
@click.option("--keep-from", metavar="FILE", help="Keep the IDs in FILE; - is standard input.")
@click.option(
    "--keep-last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the newest N of each recipe, architecture and task.",
)
@click.option(
    "--grace",
    type=age,
    metavar="AGE",
    default="1h",
    show_default=True,
    help="Always keep artifacts stored or used within AGE.",
)
@click.option("--dry-run", is_flag=True, help="Only show which artifacts would be removed.")
@standard_options
def gc_command(
    ctx: click.Context,
    max_age: int | None,
    max_size: int | None,
    keep_from: str | None,
    keep_last: int | None,
    grace: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove artifacts beyond the limits, and free their space.

    Artifacts that are pinned, mounted, or used by a running command are always kept, and so are
    those that any --max or --keep option keeps. All others are removed. Limits that are not given
    come from $CAS_GC_… or [gc] in the store's config.toml (`cas config --show`). Without any limit,
    gc only removes leftovers of killed commands, and merged layers unused for the grace time.

    \b
    cas gc --max-age 30d
    cas gc --max-size 50G --keep-last 2 --dry-run
    cas gc --keep-from live-signatures.txt
    """
    store = open_store(ctx)
    kept = None if keep_from is None else _ids_to_keep(store, keep_from)
    plan = store.plan_gc(Policy(max_age, max_size, kept, keep_last, grace))
    if dry_run:
        _show(plan, as_json)
    else:
        _collect(store, plan, as_json)
    if max_size is not None and plan.left is not None and plan.left > max_size:
        note(
            f"{size_text(plan.left)} are still in the store: they are in use, "
            "pinned, in their grace time, or kept by other options"
        )


def usual_policy(ctx: click.Context) -> Policy:
    """Return the policy of `cas gc` without options, from the environment and the configuration.

    Raises BadConfig, OSError.
    """
    with gc_command.make_context("gc", [], parent=ctx.find_root()) as context:
        values = context.params
    return Policy(values["max_age"], values["max_size"], None, values["keep_last"], values["grace"])


def _ids_to_keep(store: Store, path: str) -> frozenset[Signature]:
    """Return the IDs that a list keeps. Raises InputRefused if the store has none of them."""
    kept = store.matching(_names(path))
    missing = len(kept - store.signatures())
    if missing == len(kept):
        raise InputRefused(
            "no ID to keep is in the store, so everything would be removed",
            hint="use the list of the build that uses this store",
        )
    if missing:
        note(f"{missing} of the IDs to keep are not in the store")
    return kept


def _names(path: str) -> list[str]:
    names = [name.partition("@")[0] for name in read_ids(path)]
    if not names:
        raise InputRefused(
            "the list of IDs to keep is empty, so everything would be removed",
            hint="use a list of the IDs that the build needs",
        )
    return names


def _show(plan: GcPlan, as_json: bool) -> None:
    rows = [
        (str(d.artifact.signature), size_text(d.frees), ago_text(d.last_used_ns), d.reason)
        for d in plan.doomed
    ]
    count = len(plan.doomed)
    lines = table(("ID", "SIZE", "LAST USE", "REASON"), rows) if rows else []
    lines.append(
        f"{number_of(count, 'artifact')} would be removed, {plan.kept} kept; "
        f"{size_text(plan.frees)} would be freed"
    )
    document = {
        "would_remove": list(map(_document, plan.doomed)),
        "kept": plan.kept,
        "frees_bytes": plan.frees,
        "store_bytes": plan.size,
    }
    emit(as_json, document, lines)


def _document(doomed: Doomed) -> dict[str, object]:
    return {
        "id": str(doomed.artifact.signature),
        "frees_bytes": doomed.frees,
        "last_used_ns": doomed.last_used_ns,
        "reason": doomed.reason,
    }


def _collect(store: Store, plan: GcPlan, as_json: bool) -> None:
    def summary() -> str:
        stored = store.signatures()
        removed = sum(doomed.artifact.signature not in stored for doomed in plan.doomed)
        return f"{removed} of {len(plan.doomed)} artifacts were removed; {RESUMABLE}"

    with summary_on_interrupt(summary), progress("Removing") as show:
        collected = store.gc(plan, show)
    names = [str(artifact.signature) for artifact in collected.artifacts]
    acknowledge(
        as_json,
        {"removed": names, "freed_bytes": collected.freed},
        [
            *(f"removed {name}" for name in names),
            f"{number_of(len(names), 'artifact')} removed, {size_text(collected.freed)} freed",
        ],
    )
