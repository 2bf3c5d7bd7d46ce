"""`cas which`: the artifacts that provide a path."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import click

from cas.compose.order import sort_by_priority, with_priority
from cas.compose.origin import Origin, Provider, find_mounted_composition, find_origin
from cas.content.differences import read_node
from cas.disk.leases import NoLease
from cas.model.manifest import DIRECTORY, Digest, Manifest
from cas.store import Store
from cli.options.common import open_store, standard_options
from cli.options.compose import ids_options, names_of
from cli.output.entries import entry_document, entry_line
from cli.output.printing import emit, note, text_of


@click.command("which")
@click.argument("path", type=click.Path())
@ids_options
@standard_options
def which_command(
    ctx: click.Context, path: str, ids: tuple[str, ...], from_file: str | None, as_json: bool
) -> None:
    """Show which artifact a file comes from.

    With IDs, PATH is a path in their sysroot; without, a file in a mounted sysroot. Prints one
    line for each artifact, the winner first: wins, hidden, or merged for a directory; its ID; and
    its entry at PATH, as in `cas files`.

    \b
    cas which usr/include/zlib.h glibc zlib
    cas which build/recipe-sysroot/usr/include/zlib.h
    """
    store = open_store(ctx)
    if ids or from_file is not None:
        inside = os.path.normpath(os.fsencode(path)).lstrip(b"/")
        if inside in (b"", b"."):
            raise click.UsageError("the path must be below the root of the sysroot", ctx)
        origin = find_origin(inside, _composed(store, names_of(ctx, ids, from_file)))
        changed = False
    else:
        full = os.path.abspath(os.fsencode(path))
        full = os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))
        composed = find_mounted_composition(store.path, full)
        origin = find_origin(composed.path, _manifests(store, composed.artifacts))
        changed = read_node(full) != (origin.winner and origin.winner.node)
        if changed:
            note(f"{text_of(full)} was changed in this sysroot; it comes from none of these")
    rows = [("wins  ", origin.winner)] if origin.winner else []
    rows += [(_role(origin, provider), provider) for provider in origin.hidden]
    emit(
        as_json,
        {
            "path": os.fsdecode(origin.path),
            "winner": origin.winner and _document(origin.winner),
            "hidden": list(map(_document, origin.hidden)),
            "changed": changed,
        },
        [f"{role} {provider.id}  {entry_line(provider.entry)}" for role, provider in rows],
    )


def _role(origin: Origin, provider: Provider) -> str:
    both = origin.winner is not None and origin.winner.node == provider.node == DIRECTORY
    return "merged" if both else "hidden"


def _composed(store: Store, names: Sequence[str]) -> list[tuple[str, Manifest]]:
    """Return the IDs and manifests of a composition, lowest first."""
    try:
        with store.compose(names, conflicts=None, counted=False) as composition:
            return _manifests(store, zip(composition.ids, composition.trees, strict=True))
    except NoLease:  # the store is read-only for this user
        resolved = [(w, store.resolve(w.name)) for w in sort_by_priority(names)]
        named = ((with_priority(str(a.signature), w.priority), a.tree) for w, a in resolved)
        return _manifests(store, named)


def _manifests(store: Store, artifacts: Iterable[tuple[str, Digest]]) -> list[tuple[str, Manifest]]:
    return [(id_, store.tree(tree)) for id_, tree in artifacts]


def _document(provider: Provider) -> dict[str, object]:
    return {"id": provider.id} | entry_document(provider.entry)
