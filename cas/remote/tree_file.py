"""Tree files: the manifest of a tree, and the positions of its small contents in packs."""

from __future__ import annotations

import json
from threading import Lock
from typing import NamedTuple

from cas.content.digest import verified_manifest
from cas.errors import StoreDamaged
from cas.model.manifest import Digest, Manifest
from cas.model.strict_json import has_type, parse
from cas.remote.object_keys import LARGEST_BLOB, SMALL, tree_key
from cas.remote.object_store import ObjectStore
from cas.system.compression import Unreadable, compress, decompress
from cas.system.text import quoted

MAX_BYTES = 1 << 28
"""The limit for a compressed tree file."""
_SMALL_FILE_BYTES = 1 << 18
"""Tree files up to this size are downloaded without the memory lock."""
_MAX_DECOMPRESSED_BYTES = 1 << 28
_MAX_ENTRIES = 1 << 21
_MAX_HEAD_BYTES_PER_CONTENT = 100
"""Its length, and its part of the name of a pack."""
_MAX_PACKED_BYTES = SMALL + 1024
"""The limit for a packed content: zstd adds a few bytes to incompressible data."""


class BadTreeFile(Exception):
    """The object at the key of a tree file is not its tree file; the text is the reason."""


class Packed(NamedTuple):
    """A small content of `size` bytes, at `start` in a pack, compressed to `length` bytes."""

    digest: Digest
    size: int
    start: int
    length: int


class BlobInfo(NamedTuple):
    """A content of a manifest: one of its paths, its size, and its executable bits."""

    path: bytes
    size: int
    executable: set[bool]


class TreeFile(NamedTuple):
    """The manifest of a tree, its contents, and its packs: the name and contents of each.

    Contents, and those in packs, are in the order of the manifest.
    """

    manifest: Manifest
    contents: dict[Digest, BlobInfo]
    packs: list[tuple[Digest, list[Packed]]]


def encode(manifest: bytes, packs: list[tuple[Digest, list[int]]]) -> bytes:
    """Return the tree file of a manifest and its packs, given by names and lengths.

    The lengths are those of the small contents in the order of `contents_in`.
    """
    return compress(json.dumps(packs, separators=(",", ":")).encode() + b"\n" + manifest)


def decode(data: bytes, tree: Digest) -> TreeFile:
    """Decode the untrusted tree file of a tree. Raises BadTreeFile."""
    try:
        head, _, rest = decompress(data, _MAX_DECOMPRESSED_BYTES).partition(b"\n")
        if rest.count(b"\0") > 2 * _MAX_ENTRIES:
            raise ValueError(f"it has more than {_MAX_ENTRIES} entries")
        manifest = verified_manifest(rest, tree)
        if len(head) > _MAX_HEAD_BYTES_PER_CONTENT * (len(manifest.nodes) + 1):
            raise ValueError("it has more packs than contents")
        document = parse(head)
        if not has_type(document, list[list[Digest | list[int]]]):
            raise ValueError("its packs are invalid")
        contents = contents_in(manifest)
        return TreeFile(manifest, contents, _packs(document, contents))
    except (Unreadable, StoreDamaged, ValueError) as error:
        raise BadTreeFile(str(error)) from error


def read(bucket: ObjectStore, tree: Digest, alone: Lock) -> tuple[TreeFile | None, int]:
    """Download and decode the tree file of a tree; return it with its size (bytes), or (None, 0).

    It is decoded, and downloaded if it is large, under the lock `alone`, since it can take much
    memory. Raises BadTreeFile, RemoteFailed.
    """
    key = tree_key(tree)
    data = bucket.get(key, _SMALL_FILE_BYTES)
    with alone:
        if data is None:  # too large for the first request, or missing
            data = bucket.get(key, MAX_BYTES)
        return (None, 0) if data is None else (decode(data, tree), len(data))


def contents_in(manifest: Manifest) -> dict[Digest, BlobInfo]:
    """Return the contents of a tree in the order of the manifest.

    Raises ValueError if a content has two sizes.
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
    """Return the positions of small contents in the packs. Raises ValueError."""
    small = ((digest, blob.size) for digest, blob in contents.items() if blob.size < SMALL)
    packs: list[tuple[Digest, list[Packed]]] = []
    for name, lengths in document:
        if not isinstance(name, str) or not isinstance(lengths, list):
            raise ValueError("its packs are invalid")
        start = 0
        packed: list[Packed] = []
        for length, (digest, size) in zip(lengths, small):  # noqa: B905 (both ends are checked)
            packed.append(Packed(digest, size, start, length))
            start += length
        if (
            len(packed) < len(lengths)
            or start > LARGEST_BLOB
            or max(lengths, default=0) > _MAX_PACKED_BYTES
        ):
            raise ValueError("its packs have more contents than the tree, or are too large")
        packs.append((Digest(name), packed))
    if next(small, None) is not None:
        raise ValueError("its packs lack contents")
    return packs
