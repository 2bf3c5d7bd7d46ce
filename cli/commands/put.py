"""`cas put`: stores the output of a task."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import click

from cas.model.signature import Signature
from cli.options.common import open_store, standard_options
from cli.output.interruption import summary_on_interrupt
from cli.output.printing import acknowledge, detail
from cli.output.progress import progress
from cli.output.quantities import number_of, size_text

if TYPE_CHECKING:
    from cas.put.put import PutResult
    from cas.put.scan_result import Place
    from cas.store import Store


@click.command("put")
@click.argument("id_", metavar="ID")
@click.argument("tree", type=click.Path())
@click.option("--move", is_flag=True, help="Consume TREE: its files become the store's.")
@click.option("--replace", is_flag=True, help="Replace the tree of ID if it differs.")
@click.option("--component", is_flag=True, help="TREE is one of BitBake's sysroots-components.")
@click.option("--push", metavar="REMOTE", help="Then push the artifact to REMOTE, if possible.")
@click.option("--sign-key", metavar="FILE", help="Sign the push with this key.")
@standard_options
def put_command(
    ctx: click.Context,
    id_: str,
    tree: str,
    move: bool,
    replace: bool,
    component: bool,
    push: str | None,
    sign_key: str | None,
    as_json: bool,
) -> None:
    """Store the output of a task under its ID.

    TREE is the task's output directory, or a tar archive of it. The relocation list of a
    --component is stored at the same path as by `cas import sstate`.

    \b
    cas put zlib:core2-64:do_populate_sysroot:9f2c41d0 build/zlib/sysroot
    """
    signature = Signature.parse(id_)
    store = open_store(ctx, create=True)
    if component and move:
        raise click.UsageError("--component omits files, so the tree cannot be moved", ctx)
    place = _place_of_component(signature) if component else bytes
    share = None
    if push is not None:
        from cli.options.remotes import artifact_pusher

        share = artifact_pusher(ctx, push, sign_key)
    with summary_on_interrupt(partial(_summary, store, signature, time.time_ns())):
        with progress("Storing", "files") as show:
            result = store.put(
                signature, tree, move=move, replace=replace, place=place, progress=show
            )
        pushed = None if share is None else share(store, result.artifact)
    _print_result(as_json, result, pushed)


def _summary(store: Store, signature: Signature, began_ns: int) -> str:
    """Return whether an interrupted put had stored the tree, as text."""
    artifact = store.find(signature)
    stored = artifact is not None and artifact.created_ns >= began_ns
    return f"{signature} was stored" if stored else "nothing was stored"


def _place_of_component(signature: Signature) -> Place:
    from cas.exchange.sstate import SstateMapping

    return SstateMapping(signature.recipe).place_of_component


def _print_result(as_json: bool, result: PutResult, pushed: str | None) -> None:
    """Print the result of a put, and the outcome of its push."""
    artifact = result.artifact
    status = "unchanged" if result.unchanged else "replaced" if result.replaced else "stored"
    detail(f"{result.new} of {artifact.files} files had new contents")
    acknowledge(
        as_json,
        {
            "id": str(artifact.signature),
            "status": status,
            "tree": artifact.tree,
            "files": artifact.files,
            "bytes": artifact.size,
            "new_bytes": result.new_bytes,
            "push": pushed,
        },
        [
            f"{artifact.signature}: {status}",
            f"tree {artifact.tree}",
            f"{number_of(artifact.files, 'file')}, {size_text(artifact.size)}, "
            f"{size_text(result.new_bytes)} new",
        ],
    )
