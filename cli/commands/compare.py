"""`cas which` and `cas diff`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import click

from cas.compose.order import sort_by_priority, with_priority
from cas.compose.origin import Origin, Provider, find_mounted_composition, find_origin
from cas.content.differences import Difference, iter_differences, read_directory, read_node
from cas.disk.leases import NoLease
from cas.model.manifest import DIRECTORY, Digest, Manifest
from cas.model.signature import NoSuchSignature
from cas.store import Store
from cli.options.common import complete_id, json_option, open_store, store_option
from cli.options.compose import ids_options, names_of
from cli.output.entries import entry_document, entry_line
from cli.output.printing import emit, note, text_of


@click.command("which")
@click.argument("path", type=click.Path())
@ids_options
@json_option
@store_option
@click.pass_context
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
        found = find_origin(inside, _composed(store, names_of(ctx, ids, from_file)))
        changed = False
    else:
        full = os.path.abspath(os.fsencode(path))
        full = os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))
        composed = find_mounted_composition(store.path, full)
        found = find_origin(composed.path, _manifests(store, composed.artifacts))
        changed = read_node(full) != (found.winner and found.winner.node)
        if changed:
            note(f"{text_of(full)} was changed in this sysroot; it comes from none of these")
    rows = [("wins  ", found.winner)] if found.winner else []
    rows += [(_role(found, provider), provider) for provider in found.hidden]
    emit(
        as_json,
        {
            "path": os.fsdecode(found.path),
            "winner": found.winner and _document(found.winner),
            "hidden": list(map(_document, found.hidden)),
            "changed": changed,
        },
        [f"{role} {provider.id}  {entry_line(provider.entry)}" for role, provider in rows],
    )


@click.command("diff")
@click.argument("a", metavar="A", shell_complete=complete_id)
@click.argument("b", metavar="B", shell_complete=complete_id)
@click.option("-u", "--unified", is_flag=True, help="Also show the lines of small text files.")
@json_option
@store_option
@click.pass_context
def diff_command(ctx: click.Context, a: str, b: str, unified: bool, as_json: bool) -> None:
    """Show which paths differ between A and B, and how.

    Each is an ID, or a directory such as a mounted sysroot. A name with a `/` is a directory; any
    other name is one if no ID matches. Prints nothing if both are the same.

    \b
    cas diff zlib:9f2c zlib:77aa
    cas diff -u zlib:9f2c zlib:77aa
    cas diff zlib:9f2c build/zlib/sysroot
    """
    store = open_store(ctx) if _may_be_id(a) or _may_be_id(b) else None
    (before, old), (after, new) = _tree(store, a), _tree(store, b)
    found = list(iter_differences(before, after))
    shown = (_shown(one, old, new) if unified else None for one in found)
    documents = list(map(_difference_document, found, shown)) if as_json else None
    emit(as_json, documents, map(_difference_text, found, shown))


def _shown(difference: Difference, old: bytes, new: bytes) -> list[str] | None:
    from cas.content.text_diff import unified

    return unified(difference, old, new)


def _role(origin: Origin, provider: Provider) -> str:
    both = origin.winner is not None and origin.winner.node == provider.node == DIRECTORY
    return "merged" if both else "hidden"


def _composed(store: Store, names: Sequence[str]) -> list[tuple[str, Manifest]]:
    """Return the IDs and manifests of a composition, lowest first."""
    try:
        with store.compose(names, conflicts=None, counted=False) as composition:
            return _manifests(store, zip(composition.ids, composition.trees, strict=True))
    except NoLease:  # the store is read-only for this user
        found = [(w, store.resolve(w.name)) for w in sort_by_priority(names)]
        named = ((with_priority(str(a.signature), w.priority), a.tree) for w, a in found)
        return _manifests(store, named)


def _manifests(store: Store, artifacts: Iterable[tuple[str, Digest]]) -> list[tuple[str, Manifest]]:
    return [(id_, store.tree(tree)) for id_, tree in artifacts]


def _may_be_id(name: str) -> bool:
    return "/" not in name and name not in (".", "..")


def _tree(store: Store | None, name: str) -> tuple[Manifest, bytes]:
    """Return a tree, and the path of its directory."""
    if store is not None and _may_be_id(name):
        try:
            artifact = store.resolve(name)
            return store.manifest(artifact), store.layer_path(artifact)
        except NoSuchSignature:
            if not os.path.isdir(name):
                raise
    directory = os.path.realpath(os.fsencode(name))
    return read_directory(directory), directory


def _document(provider: Provider) -> dict[str, object]:
    return {"id": provider.id} | entry_document(provider.entry)


def _difference_document(difference: Difference, shown: list[str] | None) -> dict[str, object]:
    before, after = difference.before, difference.after
    return {
        "path": os.fsdecode(difference.path),
        "how": difference.how,
        "a": before and entry_document(before),
        "b": after and entry_document(after),
        "unified": shown,
    }


def _difference_text(difference: Difference, shown: list[str] | None) -> str:
    lines = [f"{text_of(difference.path)}: {difference.how}"]
    if shown is not None:
        return "\n".join([*lines, *shown])
    for sign, entry in (("-", difference.before), ("+", difference.after)):
        if entry is not None:
            lines.append(f"  {sign} {entry_line(entry)}")
    return "\n".join(lines)
