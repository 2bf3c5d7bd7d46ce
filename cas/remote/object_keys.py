"""Keys and size limits of the objects in a remote; see docs/format.md."""

from __future__ import annotations

from collections.abc import Iterator

from cas.model.manifest import Digest
from cas.model.signature import BadSignature, Signature

PREFIX = "sysroot-cas-1"
RECORDS = f"{PREFIX}/records"
SMALL = 1 << 18
"""Contents below this size (bytes) are stored in packs."""
SEGMENT = 8 << 20
"""Larger contents are stored in segments of this size (bytes); the last one may be smaller."""
PACK = 8 << 20
"""A pack is finished when it has this size (bytes)."""
LARGEST_BLOB = PACK + SEGMENT
"""The limit (compressed bytes) for packs and segments."""


def record_key(signature: Signature) -> str:
    """Return the key of the record of an ID."""
    recipe, _, rest = str(signature).partition(":")
    return f"{RECORDS}/{recipe}/{rest}"


def recorded_at(key: str) -> Signature | None:
    """Return the ID of the record at a key, or None if it is not the key of a record."""
    recipe, _, rest = key.removeprefix(f"{RECORDS}/").partition("/")
    try:
        return Signature.parse(f"{recipe}:{rest}")
    except BadSignature:
        return None


def tree_key(tree: Digest) -> str:
    """Return the key of a tree file."""
    return f"{PREFIX}/trees/{tree[:2]}/{tree[2:]}"


def pack_key(pack: Digest) -> str:
    """Return the key of a pack, given the digest of its bytes."""
    return f"{PREFIX}/packs/{pack[:2]}/{pack[2:]}"


def segment_key(content: Digest, number: int) -> str:
    """Return the key of a segment of a large content; numbers begin with 0."""
    return f"{PREFIX}/objects/{content[:2]}/{content[2:]}/{number}"


def segments(size: int) -> Iterator[int]:
    """Yield the sizes (bytes) of the segments of a large content."""
    for start in range(0, size, SEGMENT):
        yield min(SEGMENT, size - start)
