"""Tree files: a tree's manifest, and which of its small contents are where in which pack."""

from __future__ import annotations

import json
from threading import Lock
from typing import NamedTuple

from cas.content.digest import verified_manifest
from cas.errors import StoreDamaged
from cas.model.manifest import Digest, Manifest
from cas.model.strict_json import has_type, parse
from cas.remote.bucket import ObjectStore
from cas.remote.object_keys import LARGEST_BLOB, SMALL, tree_key
from cas.system.compression import Unreadable, compress, decompress
from cas.system.text import quoted

LARGEST = 1 << 28
"""No tree file takes more bytes, compressed."""
_LITTLE = 1 << 18
_LARGEST_UNPACKED = 1 << 28
_MOST_ENTRIES = 1 << 21
_MOST_OF_HEAD = 100  # bytes, of each content: its length, and the pack's name
_MOST_OF_ONE = SMALL + 1024
"""What a small content takes at most: zstd adds a few bytes to what cannot be compressed."""


class BadTreeFile(Exception):
    """What is at the place of a tree file is not that tree's; the text says why."""


class Packed(NamedTuple):
    """A small content: `size` bytes, in a pack at `start`, where it takes `length`."""

    digest: Digest
    size: int
    start: int
    length: int


class BlobInfo(NamedTuple):
    """What a manifest says of a content: a path that has it, its size, and with which bits."""

    path: bytes
    size: int
    executable: set[bool]


class TreeFile(NamedTuple):
    """A tree's manifest and the contents in it; and its packs: the name of each, and what is in it.

    Contents are in the order of the manifest, and so are those in packs.
    """

    manifest: Manifest
    contents: dict[Digest, BlobInfo]
    packs: list[tuple[Digest, list[Packed]]]


def encode(manifest: bytes, packs: list[tuple[Digest, list[int]]]) -> bytes:
    """Return a tree file of a manifest's bytes, and for each pack its name and the lengths in it.

    The lengths are those of the small contents, in the order of `contents_in`.
    """
    return compress(json.dumps(packs, separators=(",", ":")).encode() + b"\n" + manifest)


def decode(data: bytes, tree: Digest) -> TreeFile:
    """Read the tree file of a tree, which may come from anybody. Raises BadTreeFile."""
    try:
        head, _, rest = decompress(data, _LARGEST_UNPACKED).partition(b"\n")
        if rest.count(b"\0") > 2 * _MOST_ENTRIES:
            raise ValueError(f"it has more than {_MOST_ENTRIES} entries")
        manifest = verified_manifest(rest, tree)
        if len(head) > _MOST_OF_HEAD * (len(manifest.nodes) + 1):
            raise ValueError("it has more packs than contents")
        document = parse(head)
        if not has_type(document, list[list[Digest | list[int]]]):
            raise ValueError("its packs make no sense")
        contents = contents_in(manifest)
        return TreeFile(manifest, contents, _packs(document, contents))
    except (Unreadable, StoreDamaged, ValueError) as error:
        raise BadTreeFile(str(error)) from error


def read(bucket: ObjectStore, tree: Digest, alone: Lock) -> tuple[TreeFile | None, int]:
    """Fetch and read the tree file of a tree, None if there is none; and its size in bytes.

    It is unpacked, and fetched if it is large, under the lock `alone`, since it may take much
    memory. Raises BadTreeFile, RemoteFailed.
    """
    key = tree_key(tree)
    data = bucket.get(key, _LITTLE)
    with alone:
        if data is None:  # or there is none
            data = bucket.get(key, LARGEST)
        return (None, 0) if data is None else (decode(data, tree), len(data))


def contents_in(manifest: Manifest) -> dict[Digest, BlobInfo]:
    """Return the contents of a tree, in the order of the manifest.

    Raises ValueError if one has two sizes.
    """
    found: dict[Digest, BlobInfo] = {}
    for entry in manifest:
        if entry.digest is not None:
            content = found.setdefault(entry.digest, BlobInfo(entry.path, entry.size, set()))
            if content.size != entry.size:
                raise ValueError(f"the content of {quoted(entry.path)} has two sizes")
            content.executable.add(entry.executable)
    return found


def _packs(
    document: list[list[object]], contents: dict[Digest, BlobInfo]
) -> list[tuple[Digest, list[Packed]]]:
    """Tell where in the packs the small ones of some contents are. Raises ValueError."""
    small = ((digest, one.size) for digest, one in contents.items() if one.size < SMALL)
    packs: list[tuple[Digest, list[Packed]]] = []
    for name, lengths in document:
        if not isinstance(name, str) or not isinstance(lengths, list):
            raise ValueError("its packs make no sense")
        start = 0
        packed: list[Packed] = []
        for length, (digest, size) in zip(lengths, small):  # noqa: B905 (both ends are checked)
            packed.append(Packed(digest, size, start, length))
            start += length
        if (
            len(packed) < len(lengths)
            or start > LARGEST_BLOB
            or max(lengths, default=0) > _MOST_OF_ONE
        ):
            raise ValueError("it has more in its packs than the tree, or too much")
        packs.append((Digest(name), packed))
    if next(small, None) is not None:
        raise ValueError("it lacks contents")
    return packs
