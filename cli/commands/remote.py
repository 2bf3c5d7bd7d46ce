"""`cas push`, `cas pull` and `cas remote`: sharing artifacts through an object store."""

from __future__ import annotations

import fnmatch
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Unpack

import click

from cas.errors import ExitCode
from cas.model.signature import Signature
from cas.remote.processes import missing_in, pull_from, push_to, recorded_in
from cas.remote.push import PushOptions
from cas.remote.results import Outcome, Pulled, Pushed
from cli.options.common import complete_id, json_option, open_store, store_option
from cli.options.compose import ids_options, names_of
from cli.options.remotes import Transfer, remote_of, transfer_options
from cli.options.settings import config_of
from cli.output.batch import collecting
from cli.output.printing import acknowledge, emit, note
from cli.output.quantities import size_text

_REFUSALS = {
    Outcome.CONFLICT: ExitCode.CONFLICT,
    Outcome.DAMAGED: ExitCode.DAMAGED,
    Outcome.REFUSED: ExitCode.REFUSED,
    Outcome.UNTRUSTED: ExitCode.NO_SIGNATURE,
    Outcome.MISSING: ExitCode.NO_SIGNATURE,
}
"""The exit code of a command by the outcomes of its artifacts; the first match counts."""


@click.command("push")
@click.argument("remote")
@ids_options
@click.option("--all", "everything", is_flag=True, help="Push all artifacts of the store.")
@click.option("--replace", is_flag=True, help="Write everything again, and replace other trees.")
@click.option("--sign-key", metavar="FILE", help="Sign with this key from `cas key generate`.")
@transfer_options
@json_option
@store_option
@click.pass_context
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
        from cas.remote.signing import read_key

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
        _print_results(as_json, done, [{"sent_bytes": result.sent} for result in done])
    ctx.exit(_code(done))


@click.command("pull")
@click.argument("remote")
@ids_options
@transfer_options
@json_option
@store_option
@click.pass_context
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
        _print_results(as_json, done, counts)
    ctx.exit(_code(done))


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
@json_option
@store_option
@click.pass_context
def remote_ls_command(
    ctx: click.Context, remote: str, pattern: str, as_json: bool, **transfer: Unpack[Transfer]
) -> None:
    """List the IDs in REMOTE.

    PATTERN selects them by recipe or complete ID, with shell wildcards. Mirrors, which are read by
    HTTP, cannot be listed.

    \b
    cas remote ls s3://artifacts/yocto 'lib*'
    """
    found = sorted(
        str(signature)
        for signature in recorded_in(remote_of(config_of(ctx), remote, transfer))
        if fnmatch.fnmatchcase(signature.recipe, pattern)
        or fnmatch.fnmatchcase(str(signature), pattern)
    )
    emit(as_json, found, found)


@remote_command.command("has")
@click.argument("remote")
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id)
@transfer_options
@json_option
@store_option
@click.pass_context
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
    _print_reasons(lacking)
    if missing:
        ctx.exit(ExitCode.NO_SIGNATURE)


def _print_results(
    as_json: bool, done: Sequence[Pulled | Pushed], counts: Sequence[dict[str, int]]
) -> None:
    """Print the results of artifacts, also of those before an error."""
    documents = [
        {"id": str(r.signature), "status": r.outcome.value, **count, "reason": r.why or None}
        for r, count in zip(done, counts, strict=True)
    ]
    documents.sort(key=lambda document: str(document["id"]))
    if not done and sys.exc_info()[0] is not None:
        acknowledge(as_json, {"artifacts": []}, ())  # the error is reported elsewhere
        return
    outcomes = Counter(result.outcome for result in done)
    size = sum(count.get("sent_bytes", 0) + count.get("fetched_bytes", 0) for count in counts)
    summary = ", ".join(f"{outcomes[o]} {o.value}" for o in Outcome if outcomes[o])
    lines = [f"{document['id']}: {document['status']}" for document in documents]
    lines.append(f"{summary or 'nothing to do'}; {size_text(size)}")
    acknowledge(as_json, {"artifacts": documents}, lines)
    _print_reasons(done)


def _print_reasons(results: Sequence[Pulled | Pushed]) -> None:
    for result in results:
        if result.why:
            note(f"{result.signature}: {result.why}")


def _code(done: Sequence[Pulled | Pushed]) -> ExitCode:
    outcomes = {result.outcome for result in done}
    codes = (code for outcome, code in _REFUSALS.items() if outcome in outcomes)
    return next(codes, ExitCode.DONE)
