"""`cas push`: uploads artifacts to a remote."""

from __future__ import annotations

from typing import Unpack

import click

from cas.remote.processes import push_to
from cas.remote.push import PushOptions
from cas.remote.results import Pushed
from cas.remote.signing import read_key
from cli.options.common import open_store, standard_options
from cli.options.compose import ids_options, names_of
from cli.options.remotes import Transfer, remote_of, transfer_options
from cli.options.settings import config_of
from cli.output.batch import collecting
from cli.output.printing import note
from cli.output.remote_results import print_results, results_exit_code


@click.command("push")
@click.argument("remote")
@ids_options
@click.option("--all", "everything", is_flag=True, help="Push all artifacts of the store.")
@click.option("--replace", is_flag=True, help="Write everything again, and replace other trees.")
@click.option("--sign-key", metavar="FILE", help="Sign with this key from `cas key generate`.")
@transfer_options
@standard_options
def push_command(
    ctx: click.Context,
    remote: str,
    ids: tuple[str, ...],
    from_file: str | None,
    everything: bool,
    replace: bool,
    sign_key: str | None,
    as_json: bool,
    **transfer: Unpack[Transfer],
) -> None:
    """Upload artifacts to REMOTE.

    REMOTE is s3://BUCKET/PREFIX, gs://…, az://… or file:///DIR, or a name from the store's
    config.toml. The usual settings for credentials and endpoint apply (AWS_ACCESS_KEY_ID,
    AWS_ENDPOINT_URL, ~/.aws/credentials, …). Existing contents are not sent again. An ID that has
    another tree in the remote is only pushed with --replace.

    \b
    cas push s3://artifacts/yocto zlib openssl
    cas push s3://artifacts/yocto --all --sign-key farm.key
    """
    if everything == bool(ids or from_file is not None):
        raise click.UsageError("give IDs, --from or --all", ctx)
    store = open_store(ctx)
    key = None
    if sign_key is not None:
        key = read_key(sign_key)
    config = config_of(ctx)
    options = PushOptions(key, replace, config.trusted_keys)
    if config.trusted_keys and key is None:
        note("this store has trusted keys, so it would refuse artifacts pushed without --sign-key")
    if everything:
        artifacts = store.artifacts()
    else:
        artifacts = [store.resolve(name) for name in names_of(ctx, ids, from_file)]
    done: list[Pushed] = []
    chosen = remote_of(config, remote, transfer)
    try:
        with collecting("Pushing", "artifacts", len(artifacts), done) as (on_result, on_bytes):
            push_to(store, chosen, options, artifacts, on_result, on_bytes)
    finally:
        print_results(as_json, done, [{"sent_bytes": result.sent} for result in done])
    ctx.exit(results_exit_code(done))
