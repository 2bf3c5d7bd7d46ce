"""`cas run`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import click

from cas.model.conflicts import Conflict
from cas.store import Store
from cli.options.common import (
    complete_sysroot,
    pulled,
    read_ids,
    read_text,
    remote_option,
    resolve_store_path,
    store_option,
)
from cli.options.compose import STRATEGIES, Overlaps, compose, conflict_options
from cli.output.crashes import crashes_reported
from cli.output.errors import RUN_FAILED
from cli.output.printing import detail, note, text_of
from cli.output.progress import progress
from mounter.mounting import planned
from mounter.plan import Plan, Strategy
from mounter.running import run_plans
from mounter.sandbox.isolation import SHAREABLE_NAMESPACES, Bind, Sandbox

_OPTIONS = (
    click.option("--sysroot", "sysroots", metavar="PATH=ID,ID...", multiple=True,
                 shell_complete=complete_sysroot,
                 help="Compose IDs at PATH; may be repeated."),
    click.option("--sysroot-from", "sysroot_files", metavar="PATH=FILE", multiple=True,
                 help="Compose the IDs in FILE at PATH, one a line (- stdin)."),
    click.option("--dependencies", metavar="FILE",
                 help="Compose target and native dependencies in separate sysroots."),
    click.option("--target-sysroot", metavar="PATH", default="recipe-sysroot", show_default=True,
                 help="Path of the target sysroot of --dependencies."),
    click.option("--native-sysroot", metavar="PATH", default="recipe-sysroot-native",
                 show_default=True, help="Path of the native sysroot of --dependencies."),
    click.option("--rw", is_flag=True, help="Make sysroots writable, and discard the changes."),
    click.option("--upper", "uppers", metavar="[PATH=]DIR", multiple=True,
                 help="Make a sysroot writable, and keep the changes in DIR/upper."),
    remote_option,
    click.option("--strategy", type=click.Choice(STRATEGIES), default="auto",
                 help="Make sysroots by this strategy."),
    click.option("--bind", "binds", metavar="DIR:PATH[:ro]", multiple=True,
                 help="Show the directory DIR at PATH."),
    click.option("--chdir", metavar="PATH", help="Run CMD in PATH, as CMD sees it."),
    click.option("--env", "variables", metavar="NAME[=VALUE]", multiple=True,
                 help="Set a variable, or without VALUE, keep it."),
    click.option("--clear-env", is_flag=True, help="Pass only what --env names."),
    click.option("--net", is_flag=True, help="Keep the network."),
    click.option("--share", multiple=True, type=click.Choice(sorted(SHAREABLE_NAMESPACES)),
                 help="Share a namespace with the caller."),
    click.option("--map-root", is_flag=True, help="Run CMD as root in its user namespace."),
    click.option("--cap", "capabilities", metavar="NAME", multiple=True,
                 help="Keep a capability, such as chown, or `all`."),
    click.option("--trace", metavar="FILE",
                 help="Write the files that CMD opened, by ID, to FILE, as JSON."),
    click.option("--report", metavar="FILE",
                 help="Write strategies, conflicts, exit code and times to FILE, as JSON."),
    click.option("--json", "json_report", metavar="FILE", hidden=True),  # the old --report
)  # fmt: skip


def _run_options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command("run")
@_run_options
@conflict_options
@click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@store_option
@click.pass_context
def run_command(ctx: click.Context, /, command: tuple[str, ...], **options: Any) -> None:
    """Run CMD with sysroots that only it sees.

    They are unmounted when it ends. A later ID wins over an earlier one, and ID@N over those of a
    lower N (0 if it is not given). Paths are relative to the current directory; those of
    --dependencies to that of --chdir, if it is given.

    CMD gets user, mount, PID, IPC and network namespaces of its own; this needs no privileges,
    and gives none. The exit code is that of CMD; 125 if cas itself failed, 126 if CMD cannot be
    executed, 127 if it is not found.

    --trace does not see stat(2), as in `test -f` or ls, and guesses the targets of links;
    docs/design.md lists all its limits.

    \b
    cas run --sysroot /work/sysroot=glibc,zlib -- cc --sysroot=/work/sysroot hello.c
    cas run --bind build:/work --chdir /work --env WORKDIR=/work \\
        --dependencies deps.txt -- bash -c ./do_compile
    cas run --trace used.json --sysroot sysroot=glibc,zlib,gtk -- make
    cas run --report report.json --sysroot sysroot=glibc,zlib -- make
    """
    ctx.exit(_run(ctx, command, options))


def _run(ctx: click.Context, command: Sequence[str], options: dict[str, Any]) -> int:
    sandbox = _sandbox(ctx, options)
    overlaps: Overlaps = {
        "conflicts": options["conflicts"],
        "allow_overlap": options["allow_overlap"],
        "allow_overlap_from": options["allow_overlap_from"],
    }
    with contextlib.ExitStack() as stack:
        plans: list[Plan] = []
        conflicts: list[Sequence[Conflict]] = []
        if options["sysroots"] or options["sysroot_files"] or options["dependencies"]:
            path = resolve_store_path(ctx)
            # It is closed before the forks: LMDB allows none.
            create = options["remote"] is not None
            with crashes_reported(path, RUN_FAILED), Store(path, create=create) as store:
                wanted = _wanted(ctx, store, options)
                uppers = _uppers(ctx, options["uppers"], list(wanted))
                for target, names in wanted.items():
                    purpose = f"run at {target}: {' '.join(command)[:200]}"
                    composition = stack.enter_context(compose(store, names, purpose, overlaps))
                    conflicts.append(composition.conflicts)
                    plans.append(
                        planned(
                            composition,
                            os.path.realpath(target),
                            Strategy(options["strategy"]),
                            writable=options["rw"],
                            upper=uppers.get(target),
                        )
                    )
        for plan in plans:
            many = f"{len(plan.artifacts)} artifacts in {len(plan.layers)} layers"
            detail(f"{text_of(plan.target)}: {many}, by {plan.strategy.value}")
        with progress("Making the trees", "files") as show:
            trace, report = options["trace"], options["report"] or options["json_report"]
            if trace is None and report is None:
                return run_plans(command, plans, note, sandbox, progress=show)
            from cli.commands.run_reports import run_with_reports

            return run_with_reports(
                command, plans, conflicts, sandbox, show, trace=trace, report=report
            )


def _wanted(ctx: click.Context, store: Store, options: dict[str, Any]) -> dict[str, list[str]]:
    """Return the IDs for each path, in the order of the options."""
    wanted: dict[str, list[str]] = {}
    for text in options["sysroots"]:
        path, equals, ids = text.rpartition("=")  # an ID holds no "="
        _add(ctx, wanted, text if equals else "", path, [name for name in ids.split(",") if name])
    for text in options["sysroot_files"]:
        path, equals, file = text.partition("=")
        _add(ctx, wanted, text if equals else "", path, read_ids(file) if file else [])
    pulled(ctx, store, options["remote"], [name for ids in wanted.values() for name in ids])
    if options["dependencies"] is not None:
        from cas.compose.dependencies import parse_dependencies, split_native

        names = parse_dependencies(read_text(options["dependencies"]))
        pulled(ctx, store, options["remote"], names)
        split = split_native(names, lambda name: store.resolve(name).signature)
        base = options["chdir"] or ""
        for path, ids in (
            (options["target_sysroot"], split.target),
            (options["native_sysroot"], split.native),
        ):
            path = os.path.join(base, path)
            _add(ctx, wanted, path, path, list(ids))
    return wanted


def _add(
    ctx: click.Context, wanted: dict[str, list[str]], text: str, path: str, names: list[str]
) -> None:
    if not path or not text:
        raise click.UsageError("give PATH=… to --sysroot and --sysroot-from", ctx)
    if path in wanted:
        raise click.UsageError(f"{path!r} is given twice", ctx)
    wanted[path] = names


def _uppers(ctx: click.Context, texts: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    uppers: dict[str, str] = {}
    for text in texts:
        named = [path for path in paths if text.startswith(f"{path}=")]
        if not named and len(paths) != 1:
            raise click.UsageError("of several sysroots, say which: --upper PATH=DIR", ctx)
        path = max(named, key=len, default=paths[0])
        if path in uppers:
            raise click.UsageError(f"--upper {text!r} is for a sysroot that has one", ctx)
        uppers[path] = text.removeprefix(f"{path}=")
    return uppers


def _sandbox(ctx: click.Context, options: dict[str, Any]) -> Sandbox:
    share = {*options["share"], *(["net"] if options["net"] else [])}
    return Sandbox(
        binds=tuple(_bind(ctx, text) for text in options["binds"]),
        share=frozenset(share),
        map_root=options["map_root"],
        capabilities=options["capabilities"],
        directory=None if options["chdir"] is None else os.fsencode(options["chdir"]),
        environment=_environment(ctx, options),
    )


def _bind(ctx: click.Context, text: str) -> Bind:
    read_only = text.endswith(":ro")
    source, colon, target = text.removesuffix(":ro").rpartition(":/")
    if not source or not colon or ":" in target.rpartition("/")[2]:
        raise click.UsageError(f"--bind {text!r} is not DIR:/PATH or DIR:/PATH:ro", ctx)
    return Bind(
        os.path.realpath(os.fsencode(source)),
        os.path.realpath(os.fsencode("/" + target)),
        not read_only,
    )


def _environment(ctx: click.Context, options: dict[str, Any]) -> dict[bytes, bytes]:
    environment = {} if options["clear_env"] else dict(os.environb)
    if b"PWD" in environment and options["chdir"] is not None:
        environment[b"PWD"] = os.path.abspath(os.fsencode(options["chdir"]))  # shells believe it
    for text in options["variables"]:
        name, equals, value = os.fsencode(text).partition(b"=")
        if not name:
            raise click.UsageError(f"--env {text!r} has no name", ctx)
        if equals:
            environment[name] = value
        elif name in os.environb:
            environment[name] = os.environb[name]
    return environment
