"""`cas diff`: the differences of two trees."""

from __future__ import annotations

import os

import click

from cas.content.differences import Difference, iter_differences, read_directory
from cas.model.manifest import Manifest
from cas.model.signature import NoSuchSignature
from cas.store import Store
from cli.options.common import complete_id, open_store, standard_options
from cli.output.entries import entry_document, entry_line
from cli.output.printing import emit, text_of


@click.command("diff")
@click.argument("a", metavar="A", shell_complete=complete_id)
@click.argument("b", metavar="B", shell_complete=complete_id)
@click.option("-u", "--unified", is_flag=True, help="Also show the lines of small text files.")
@standard_options
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
    differences = list(iter_differences(before, after))
    shown = (_shown(difference, old, new) if unified else None for difference in differences)
    documents = list(map(_difference_document, differences, shown)) if as_json else None
    emit(as_json, documents, map(_difference_text, differences, shown))


def _shown(difference: Difference, old: bytes, new: bytes) -> list[str] | None:
    from cas.content.text_diff import unified

    return unified(difference, old, new)


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
