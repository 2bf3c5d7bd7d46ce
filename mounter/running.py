"""`cas run`: a command with compositions at paths of its own, and nothing left afterwards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from cas.dirs import opened
from cas.errors import InputRefused
from cas.quoting import quoted
from cas.scratch import scratch
from mounter import linktree
from mounter.mounting import (
    check_target,
    make_directories,
    mounted,
    remove_directories,
)
from mounter.plan import Plan, Strategy, StrategyRefused
from mounter.sandbox import NamespaceRefused, Placed, run_plainly, run_sandboxed

if TYPE_CHECKING:
    from cas.store import Composition

StrPath = str | bytes | os.PathLike[str]
_Path = TypeVar("_Path", bound=StrPath)


def run(
    command: Sequence[StrPath],
    sysroots: Mapping[_Path, Composition],
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Run `command` with a composition at each path of `sysroots`; return its exit code.

    It runs in a user, mount and PID namespace of its own, where the compositions are read-only
    mounts. Where the kernel refuses overlays, linked trees are mounted in their place; where it
    refuses namespaces, linked trees are made at the paths and the command runs without. `note`
    gets a sentence then. Paths are made if they are missing, and removed at the end.

    The exit code is as in `mounter.sandbox.run_sandboxed`. The compositions stay open. Raises
    InputRefused, NoStrategy, StoreDamaged, CasError, OSError.
    """
    arguments = [os.fsencode(argument) for argument in command]
    compositions = {os.path.realpath(os.fsencode(path)): sysroots[path] for path in sysroots}
    plans = [Plan(c.store, c.trees, path) for path, c in compositions.items()]
    _check(plans, len(sysroots))
    with contextlib.ExitStack() as stack:
        for plan in plans:
            made = make_directories(plan.target)
            stack.callback(remove_directories, made)
        try:
            return _run_in_namespace(arguments, plans, note)
        except NamespaceRefused as refusal:
            note(f"{refusal}: the sysroots are linked, and visible outside of the command")
    with contextlib.ExitStack() as stack:
        for path, composition in compositions.items():
            stack.enter_context(mounted(composition, path, Strategy.LINKED))
        return run_plainly(arguments)


def _run_in_namespace(
    arguments: list[bytes], plans: list[Plan], note: Callable[[str], None]
) -> int:
    try:
        return run_sandboxed(arguments, [Placed(plan) for plan in plans])
    except StrategyRefused as refusal:
        note(f"the sysroots are hardlinked, not overlaid: {refusal}")
    with contextlib.ExitStack() as stack:
        placed = []
        for plan in plans:
            store = stack.enter_context(opened(plan.store))
            work = stack.enter_context(scratch(store, "run"))
            os.mkdir(b"sysroot", 0o755, dir_fd=work.fd)
            root = stack.enter_context(opened(b"sysroot", work.fd))
            linktree.make_tree(plan, Strategy.HARDLINK, plan.content(), root)
            placed.append(Placed(plan, os.path.join(plan.store, work.path, b"sysroot")))
        return run_sandboxed(arguments, placed)


def _check(plans: list[Plan], wanted: int) -> None:
    if len(plans) != wanted:
        raise InputRefused("two sysroots have the same path", hint="give each a path of its own")
    for plan in plans:
        check_target(plan)
        for other in plans:
            if other is not plan and os.path.commonpath([plan.target, other.target]) == plan.target:
                raise InputRefused(
                    f"the sysroot {quoted(other.target)} is inside the sysroot "
                    f"{quoted(plan.target)}",
                    hint="give paths that are beside each other",
                )
