"""`cas plan`: shows how a sysroot would be mounted, without mounting it."""

from __future__ import annotations

import os
from typing import Unpack

import click

from cli.options.common import open_pulled, remote_option, standard_options
from cli.options.compose import (
    Overlaps,
    compose,
    conflict_options,
    ids_options,
    mounting_options,
    names_of,
)
from cli.output.documents import conflict_documents
from cli.output.printing import emit, text_of
from mounter.handover import decide
from mounter.mounting import planned
from mounter.plan import Plan, Strategy


@click.command("plan")
@click.argument("target", type=click.Path())
@ids_options
@conflict_options
@click.option("--private", is_flag=True, help="Plan for private namespaces, like `cas run`.")
@mounting_options
@remote_option
@standard_options
def plan_command(
    ctx: click.Context,
    target: str,
    ids: tuple[str, ...],
    from_file: str | None,
    private: bool,
    rw: bool,
    upper: str | None,
    strategy: str,
    remote: str | None,
    as_json: bool,
    **overlaps: Unpack[Overlaps],
) -> None:
    """Show what `cas mount` would do.

    Nothing is mounted, but --remote pulls missing artifacts. The strategy is found by trying. The
    Python package `mounter`, which needs no other packages, can carry out the plan of --json.

    \b
    cas plan build/recipe-sysroot glibc zlib
    cas plan --private --json /work/recipe-sysroot glibc zlib > plan.json
    """
    names = names_of(ctx, ids, from_file)
    store = open_pulled(ctx, remote, names)
    with compose(store, names, f"plan for {target}", overlaps) as composition:
        request = planned(composition, target, Strategy(strategy), writable=rw, upper=upper)
        plan = decide(request, private=private)
        conflicts = conflict_documents(composition.conflicts)
        emit(as_json, plan.encode() | {"conflicts": conflicts}, _lines(plan, len(conflicts)))


def _lines(plan: Plan, conflicts: int) -> list[str]:
    names: dict[str, list[str]] = {}
    for artifact in plan.artifacts:
        names.setdefault(artifact.tree, []).append(artifact.id)
    lines = [f"target: {text_of(plan.target)}", f"strategy: {plan.strategy.value}"]
    lines += [f"refused: {reason}" for reason in plan.reasons]
    if plan.writable:
        lines.append(f"changes: {'discarded' if plan.upper is None else text_of(plan.upper)}")
    lines += [f"conflicts: {conflicts}", "layers, top first:"]
    lines += [
        f"  {os.path.join(os.fsdecode(plan.store), 'layers', tree)}"
        f"  {', '.join(names.get(tree, ['merged']))}"
        for tree in reversed(plan.layers)
    ]
    return lines
