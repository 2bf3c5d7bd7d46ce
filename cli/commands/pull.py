"""`cas pull`: downloads artifacts from a remote."""

from __future__ import annotations

from typing import Unpack

import click

from cas.model.signature import Signature
from cas.remote.processes import pull_from
from cas.remote.results import Pulled
from cli.options.common import open_store, standard_options
from cli.options.compose import ids_options, names_of
from cli.options.remotes import Transfer, remote_of, transfer_options
from cli.options.settings import config_of
from cli.output.batch import collecting
from cli.output.remote_results import print_results, results_exit_code


@click.command("pull")
@click.argument("remote")
@ids_options
@transfer_options
@standard_options
def pull_command(
    ctx: click.Context,
    remote: str,
    ids: tuple[str, ...],
    from_file: str | None,
    as_json: bool,
    **transfer: Unpack[Transfer],
) -> None:
    """Download artifacts from REMOTE that the store lacks.

    IDs have to be complete. REMOTE is as for `cas push`, or a read-only mirror: https://HOST/PATH.
    All data is verified. If REMOTE lacks some artifacts, the others are stored, and the command
    exits with 3.

    \b
    cas pull s3://artifacts/yocto zlib:core2-64:do_populate_sysroot:9f2c41d0
    cas pull https://mirror.example.com/yocto --from wanted.txt
    """
    signatures = [Signature.parse(name) for name in names_of(ctx, ids, from_file)]
    store, config = open_store(ctx, create=True), config_of(ctx)
    done: list[Pulled] = []
    chosen = remote_of(config, remote, transfer)
    try:
        number = len(set(signatures))
        with collecting("Pulling", "artifacts", number, done) as (on_result, on_bytes):
            pull_from(store, chosen, config.trusted_keys, signatures, on_result, on_bytes)
    finally:
        counts = [{"fetched_bytes": r.fetched, "new_bytes": r.new_bytes} for r in done]
        print_results(as_json, done, counts)
    ctx.exit(results_exit_code(done))
