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
from cli.output.batch import gathering
from cli.output.printing import acknowledge, emit, note
from cli.output.quantities import size_text

_REFUSALS = {
    Outcome.CONFLICT: ExitCode.CONFLICT,
    Outcome.DAMAGED: ExitCode.DAMAGED,
    Outcome.REFUSED: ExitCode.REFUSED,
    Outcome.UNTRUSTED: ExitCode.NO_SIGNATURE,
    Outcome.MISSING: ExitCode.NO_SIGNATURE,
}
"""How a command ends if that became of one of its artifacts; the first one of these counts."""


@click.command("push")
@click.argument("remote")
@ids_options
@click.option("--all", "everything", is_flag=True, help="Push all that is in the store.")
@click.option("--replace", is_flag=True, help="Write all anew, over another tree too.")
@click.option("--sign-key", metavar="FILE", help="Sign with this key, of `cas key generate`.")
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
    **how: Unpack[Transfer],
) -> None:
    """Share artifacts by writing them to REMOTE.

    REMOTE is a name of the store's config.toml, or s3://BUCKET/PREFIX, gs://…, az://…, or
    file:///DIR. Credentials and endpoint come from where they do for other programs
    (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ~/.aws/credentials, …). What is there already is not
    sent again. An ID that is there with another tree is not pushed, unless with --replace.

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
    terms = PushOptions(key, replace, config.trusted_keys)
    if config.trusted_keys and key is None:
        note("without --sign-key, this store itself would not take what is pushed")
    if everything:
        artifacts = store.artifacts()
    else:
        artifacts = [store.resolve(name) for name in names_of(ctx, ids, from_file)]
    done: list[Pushed] = []
    chosen = remote_of(config, remote, how)
    try:
        with gathering("Pushing", "artifacts", len(artifacts), done) as (take, moved):
            push_to(store, chosen, terms, artifacts, take, moved)
    finally:
        _tell(as_json, done, [{"sent_bytes": one.sent} for one in done])
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
    **how: Unpack[Transfer],
) -> None:
    """Store artifacts that are in REMOTE, and not here yet.

    IDs have to be whole. REMOTE is what it is for `cas push`, or a mirror: https://HOST/PATH. All
    that comes is checked. Exits with 3 if some are missing there; the others are stored.

    \b
    cas pull s3://artifacts/yocto zlib:core2-64:do_populate_sysroot:9f2c41d0
    cas pull https://mirror.example.com/yocto --from wanted.txt
    """
    signatures = [Signature.parse(name) for name in names_of(ctx, ids, from_file)]
    store, config = open_store(ctx, create=True), config_of(ctx)
    done: list[Pulled] = []
    chosen = remote_of(config, remote, how)
    try:
        with gathering("Pulling", "artifacts", len(set(signatures)), done) as (take, moved):
            pull_from(store, chosen, config.trusted_keys, signatures, take, moved)
    finally:
        counts = [{"fetched_bytes": one.fetched, "new_bytes": one.new_bytes} for one in done]
        _tell(as_json, done, counts)
    ctx.exit(_code(done))


@click.group("remote")
def remote_command() -> None:
    """Ask what is in a remote.

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
    ctx: click.Context, remote: str, pattern: str, as_json: bool, **how: Unpack[Transfer]
) -> None:
    """List the IDs in REMOTE.

    With PATTERN those whose recipe or whole ID it matches, as in a shell. A mirror by HTTP cannot
    tell.

    \b
    cas remote ls s3://artifacts/yocto 'lib*'
    """
    found = sorted(
        str(signature)
        for signature in recorded_in(remote_of(config_of(ctx), remote, how))
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
    ctx: click.Context, remote: str, ids: tuple[str, ...], as_json: bool, **how: Unpack[Transfer]
) -> None:
    """Tell whether all IDs are in REMOTE.

    Exits with 0 if they are, else with 3, and prints the missing ones.

    \b
    cas remote has s3://artifacts/yocto zlib:core2-64:do_populate_sysroot:9f2c41d0
    """
    signatures, config = [Signature.parse(text) for text in ids], config_of(ctx)
    chosen = remote_of(config, remote, how)
    found = missing_in(chosen, config.trusted_keys, signatures)
    missing = [str(one.signature) for one in found]
    emit(as_json, {"missing": missing}, missing)
    for one in found:
        if one.why:
            note(f"{one.signature}: {one.why}")
    if missing:
        ctx.exit(ExitCode.NO_SIGNATURE)


def _tell(as_json: bool, done: Sequence[Pulled | Pushed], counts: Sequence[dict[str, int]]) -> None:
    """Print what became of artifacts, also of those before an error."""
    documents = [
        {"id": str(one.signature), "status": one.outcome.value, **count, "reason": one.why or None}
        for one, count in zip(done, counts, strict=True)
    ]
    documents.sort(key=lambda document: str(document["id"]))
    if not done and sys.exc_info()[0] is not None:
        acknowledge(as_json, {"artifacts": []}, ())  # what went wrong is told elsewhere
        return
    outcomes = Counter(one.outcome for one in done)
    size = sum(count.get("sent_bytes", 0) + count.get("fetched_bytes", 0) for count in counts)
    many = ", ".join(f"{outcomes[one]} {one.value}" for one in Outcome if outcomes[one])
    told = [f"{document['id']}: {document['status']}" for document in documents]
    acknowledge(
        as_json, {"artifacts": documents}, [*told, f"{many or 'nothing to do'}; {size_text(size)}"]
    )
    for one in done:
        if one.why:
            note(f"{one.signature}: {one.why}")


def _code(done: Sequence[Pulled | Pushed]) -> ExitCode:
    outcomes = {one.outcome for one in done}
    return next((code for one, code in _REFUSALS.items() if one in outcomes), ExitCode.DONE)
