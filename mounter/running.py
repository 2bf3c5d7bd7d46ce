"""Runs a command with compositions mounted for it, and removes them afterwards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from cas.disk.scratch import scratch
from cas.errors import InputRefused
from cas.system.debug_log import debug
from cas.system.directories import make_directory, open_directory
from cas.system.paths import is_below
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.text import quoted
from mounter.linked.make import make_linked_tree
from mounter.mounting import carry_out, planned
from mounter.overlay.upper import upper_lock
from mounter.plan import NoStrategy, Plan, Strategy, StrategyRefused
from mounter.records import count_sysroots, new_source_name
from mounter.sandbox.isolation import Sandbox
from mounter.sandbox.namespaces import NamespaceRefused
from mounter.sandbox.processes import run_sandboxed, run_without_namespaces
from mounter.sandbox.rootfs import MountSpec
from mounter.targets import StrPath, nearest_directory, refuse_store_overlap
from mounter.unmounting import umount

if TYPE_CHECKING:
    from cas.compose.composition import Composition
    from mounter.trace.tracer import Tracer

_Path = TypeVar("_Path", bound=StrPath)
_Note = Callable[[str], None]
_DEFAULT_SANDBOX = Sandbox()
_LINKED = (Strategy.HARDLINK, Strategy.COPY)


def run(
    command: Sequence[StrPath],
    sysroots: Mapping[_Path, Composition],
    note: _Note = lambda text: None,
    *,
    sandbox: Sandbox = _DEFAULT_SANDBOX,
    writable: bool = False,
) -> int:
    """Run `command` with a composition at each path of `sysroots`; return its exit code.

    The command runs in its own namespaces. The compositions are mounted there read-only; with
    `writable` they accept changes, which are discarded. `sandbox` has the other choices. If the
    kernel refuses overlays, linked trees are mounted instead. If it refuses namespaces, linked
    trees are made at the paths and the command runs without namespaces. In both cases `note` is
    called with a sentence. Missing paths are made, and removed at the end.

    The exit code is that of `mounter.sandbox.processes.run_sandboxed`. Does not close the
    compositions.
    Raises InputRefused, InUse, NoStrategy, BadSandbox, StoreDamaged, CasError, OSError.
    """
    plans = [
        planned(composition, os.path.realpath(os.fsencode(path)), writable=writable)
        for path, composition in sysroots.items()
    ]
    return run_plans(command, plans, note, sandbox)


class RunResult(NamedTuple):
    """The result of a command: its exit `code`, the strategy of each plan's sysroot, and whether
    the command had its own namespaces."""

    code: int
    strategies: tuple[Strategy, ...]
    namespaces: bool = True


def run_plans(
    command: Sequence[StrPath],
    plans: Sequence[Plan],
    note: _Note = lambda text: None,
    sandbox: Sandbox = _DEFAULT_SANDBOX,
    tracer: Tracer | None = None,
    progress: Progress = NO_PROGRESS,
) -> int:
    """Run `command` with each plan's sysroot at its target; return its exit code; see `run`.

    The caller holds leases on what the plans use. A `tracer` of these plans records the files that
    the command opens; if it cannot, TraceRefused is raised before the command is started.
    `progress` counts the files that are linked or copied.
    """
    return run_plans_detailed(command, plans, note, sandbox, tracer, progress).code


def run_plans_detailed(
    command: Sequence[StrPath],
    plans: Sequence[Plan],
    note: _Note = lambda text: None,
    sandbox: Sandbox = _DEFAULT_SANDBOX,
    tracer: Tracer | None = None,
    progress: Progress = NO_PROGRESS,
) -> RunResult:
    """Run `command` like `run_plans`; return also how it was run. Raises the same."""
    arguments = [os.fsencode(argument) for argument in command]
    refuse_unmountable_paths(plans, sandbox)
    with contextlib.ExitStack() as stack:
        for plan in plans:
            stack.enter_context(upper_lock(plan))
        try:
            return _run_in_namespace(arguments, plans, note, sandbox, tracer, progress)
        except NamespaceRefused as refusal:
            debug("namespaces refused: %s", refusal)
            _refuse_without_namespaces(plans, sandbox, refusal)
            linked = "; its sysroots are linked, and other processes see them" if plans else ""
            note(f"{refusal}: the command shares network, processes and IPC with others{linked}")
        strategies = []
        for plan in plans:
            strategies.append(carry_out(plan.by(Strategy.LINKED), progress).strategy)
            stack.callback(umount, plan.store, plan.target)
        code = run_without_namespaces(arguments, sandbox, tracer)
        return RunResult(code, tuple(strategies), namespaces=False)


def _run_in_namespace(
    arguments: list[bytes],
    plans: Sequence[Plan],
    note: _Note,
    sandbox: Sandbox,
    tracer: Tracer | None,
    progress: Progress,
) -> RunResult:
    if not any(plan.strategy in _LINKED for plan in plans):
        try:
            specs = [_overlay_spec(plan) for plan in plans]
            code = run_sandboxed(arguments, specs, sandbox, tracer)
            count_sysroots(plans, overlaid=True)
            return RunResult(code, (Strategy.OVERLAY,) * len(plans))
        except StrategyRefused as refusal:
            debug("strategy overlay refused: %s", refusal)
            if any(plan.strategy is Strategy.OVERLAY or plan.upper for plan in plans):
                raise NoStrategy(plans[0].target, [f"overlay: {refusal}"]) from refusal
            note(f"the sysroots are linked, not overlaid: {refusal}")
    with contextlib.ExitStack() as stack:
        strategies = tuple(map(_link_strategy, plans))
        specs = [
            _make_linked(plan, strategy, stack, progress)
            for plan, strategy in zip(plans, strategies, strict=True)
        ]
        code = run_sandboxed(arguments, specs, sandbox, tracer)
        count_sysroots(plans, overlaid=False)
        return RunResult(code, strategies)


def _refuse_without_namespaces(
    plans: Sequence[Plan], sandbox: Sandbox, refusal: NamespaceRefused
) -> None:
    """Refuse requests that need namespaces. Raises NoStrategy."""
    for bind in sandbox.binds:
        raise NoStrategy(bind.target, [f"{refusal}; bind mounts need them"])
    for plan in plans:
        if plan.upper is not None or plan.strategy is Strategy.OVERLAY:
            raise NoStrategy(plan.target, [f"overlay: {refusal}"])


def _overlay_spec(plan: Plan) -> MountSpec:
    return MountSpec(plan, new_source_name() if plan.lease is None else f"cas-{plan.lease}")


def _link_strategy(plan: Plan) -> Strategy:
    if plan.strategy in _LINKED:
        return plan.strategy
    return Strategy.COPY if plan.writable else Strategy.HARDLINK


def _make_linked(
    plan: Plan, strategy: Strategy, stack: contextlib.ExitStack, progress: Progress
) -> MountSpec:
    """Make a plan's linked tree in the store's scratch directory; `stack` removes it."""
    store = stack.enter_context(open_directory(plan.store))
    work = stack.enter_context(scratch(store, f"run-{plan.lease}" if plan.lease else "run"))
    make_directory(b"sysroot", 0o755, work.fd)
    root = stack.enter_context(open_directory(b"sysroot", work.fd))
    try:
        make_linked_tree(plan, strategy, plan.content(), root, progress)
    except StrategyRefused as refusal:
        raise NoStrategy(plan.target, [f"{strategy.value}: {refusal}"]) from refusal
    return MountSpec(plan, "", os.path.join(plan.store, work.path, b"sysroot"))


def refuse_unmountable_paths(plans: Sequence[Plan], sandbox: Sandbox = _DEFAULT_SANDBOX) -> None:
    """Refuse paths that cannot be mounted at for a command. Raises InputRefused."""
    targets = [*(plan.target for plan in plans), *(bind.target for bind in sandbox.binds)]
    if b"/" in targets:
        raise InputRefused("cannot mount at /", hint="give a directory below it")
    for target in targets:
        if is_below(target, b"/proc"):
            raise InputRefused(
                f"cannot mount at {quoted(target)}: the command has a /proc of its own",
                hint="give a directory outside /proc",
            )
        if not any(other != target and is_below(target, other) for other in targets):
            nearest_directory(target)  # for its check; inner targets are made inside outer ones
    if len(set(targets)) < len(targets):
        raise InputRefused("two mounts have the same path", hint="give each its own path")
    for plan in plans:
        for target in targets:
            refuse_store_overlap(target, plan.store)
        for other in plans:
            if other is not plan and is_below(other.target, plan.target):
                raise InputRefused(
                    f"the sysroot {quoted(other.target)} is inside the sysroot "
                    f"{quoted(plan.target)}",
                    hint="give paths of which none contains another",
                )
