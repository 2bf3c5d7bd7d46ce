"""`cas run`."""

from __future__ import annotations

import contextlib

import click

from cas.errors import CasError
from cas.store import Store
from cli.failure import RUN_FAILED, report
from cli.options import note, read_ids, store_option, store_path
from mounter.running import run


@click.command("run")
@click.option(
    "--sysroot",
    "sysroots",
    metavar="PATH=ID,ID...",
    multiple=True,
    help="Compose IDs at PATH; can be given again.",
)
@click.option(
    "--sysroot-from",
    "sysroot_files",
    metavar="PATH=FILE",
    multiple=True,
    help="The same with IDs from FILE, one a line (- stdin).",
)
@click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@store_option
@click.pass_context
def run_command(
    ctx: click.Context,
    sysroots: tuple[str, ...],
    sysroot_files: tuple[str, ...],
    command: tuple[str, ...],
) -> None:
    """Run CMD with sysroots that only it sees.

    They are gone when it ends.

    CMD gets a user, mount and PID namespace of its own; this needs no privileges. The exit code
    is that of CMD; 125 if cas itself failed, 126 if CMD cannot be executed, 127 if it is not
    found.

    \b
    cas run --sysroot /work/sysroot=glibc,zlib -- cc --sysroot=/work/sysroot hello.c
    """
    wanted: dict[str, list[str]] = {}
    for text in sysroots:
        path, equals, ids = text.rpartition("=")  # an ID holds no "="
        _add(ctx, wanted, text, path, equals, [name for name in ids.split(",") if name])
    try:
        for text in sysroot_files:
            path, equals, file = text.partition("=")
            _add(ctx, wanted, text, path, equals, read_ids(file) if file else [])
        code = _run(ctx, wanted, command)
    except (CasError, OSError) as error:
        report(error)
        code = RUN_FAILED
    ctx.exit(code)


def _run(ctx: click.Context, wanted: dict[str, list[str]], command: tuple[str, ...]) -> int:
    with contextlib.ExitStack() as stack:
        compositions = {}
        if wanted:
            with Store(store_path(ctx)) as store:  # closed before the forks: LMDB allows none
                for path, names in wanted.items():
                    compositions[path] = stack.enter_context(store.compose(names))
        return run(command, compositions, note)


def _add(
    ctx: click.Context,
    wanted: dict[str, list[str]],
    text: str,
    path: str,
    equals: str,
    names: list[str],
) -> None:
    if not path or not equals:
        raise click.UsageError(f"{text!r} is not PATH=…", ctx)
    if path in wanted:
        raise click.UsageError(f"{path!r} is given twice", ctx)
    wanted[path] = names
