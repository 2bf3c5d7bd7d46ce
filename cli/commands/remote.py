"""`cas remote`: lists and looks up the artifacts of a remote."""

from __future__ import annotations

import fnmatch
from typing import Unpack

import click

from cas.errors import ExitCode
from cas.model.signature import Signature
from cas.remote.processes import missing_in, recorded_in
from cli.options.common import complete_id, standard_options
from cli.options.remotes import Transfer, remote_of, transfer_options
from cli.options.settings import config_of
from cli.output.printing import emit
from cli.output.remote_results import print_reasons


@click.group("remote")
def remote_command() -> None:
    """List or look up the artifacts of a remote.

    \b
    cas remote ls s3://artifacts/yocto
    """


@remote_command.command("ls")
@click.argument("remote")
@click.argument("pattern", default="*")
@transfer_options
@standard_options
def remote_ls_command(
    ctx: click.Context, remote: str, pattern: str, as_json: bool, **transfer: Unpack[Transfer]
) -> None:
    """List the IDs in REMOTE.

    PATTERN selects them by recipe or complete ID, with shell wildcards. Mirrors, which are read by
    HTTP, cannot be listed.

    \b
    cas remote ls s3://artifacts/yocto 'lib*'
    """
    signatures = sorted(
        str(signature)
        for signature in recorded_in(remote_of(config_of(ctx), remote, transfer))
        if fnmatch.fnmatchcase(signature.recipe, pattern)
        or fnmatch.fnmatchcase(str(signature), pattern)
    )
    emit(as_json, signatures, signatures)


@remote_command.command("has")
@click.argument("remote")
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id)
@transfer_options
@standard_options
def remote_has_command(
    ctx: click.Context,
    remote: str,
    ids: tuple[str, ...],
    as_json: bool,
    **transfer: Unpack[Transfer],
) -> None:
    """Check whether REMOTE has all IDs.

    Exits with 0 if it has; otherwise prints the missing IDs and exits with 3.

    \b
    cas remote has s3://artifacts/yocto zlib:core2-64:do_populate_sysroot:9f2c41d0
    """
    signatures, config = [Signature.parse(text) for text in ids], config_of(ctx)
    chosen = remote_of(config, remote, transfer)
    lacking = missing_in(chosen, config.trusted_keys, signatures)
    missing = [str(result.signature) for result in lacking]
    emit(as_json, {"missing": missing}, missing)
    print_reasons(lacking)
    if missing:
        ctx.exit(ExitCode.NO_SIGNATURE)
