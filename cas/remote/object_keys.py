"""Where things are in a remote, and how large; see docs/format.md."""

from __future__ import annotations

from collections.abc import Iterator

from cas.model.manifest import Digest
from cas.model.signature import BadSignature, Signature

PREFIX = "sysroot-cas-1"
RECORDS = f"{PREFIX}/records"
SMALL = 1 << 18
"""Contents of less than so many bytes are in packs."""
SEGMENT = 8 << 20
"""A larger content is in so large segments (bytes), the last one being what is left."""
PACK = 8 << 20
"""A pack is full when it has so many bytes."""
LARGEST_BLOB = PACK + SEGMENT
"""No pack and no segment takes more bytes than that, compressed."""


def record_key(signature: Signature) -> str:
    """Return where the record of a signature is."""
    recipe, _, rest = str(signature).partition(":")
    return f"{RECORDS}/{recipe}/{rest}"


def recorded_at(key: str) -> Signature | None:
    """Return the signature whose record is at a key, if it can be one's."""
    recipe, _, rest = key.removeprefix(f"{RECORDS}/").partition("/")
    try:
        return Signature.parse(f"{recipe}:{rest}")
    except BadSignature:
        return None


def tree_key(tree: Digest) -> str:
    """Return where a tree file is."""
    return f"{PREFIX}/trees/{tree[:2]}/{tree[2:]}"


def pack_key(pack: Digest) -> str:
    """Return where a pack is, which is named by the digest of its bytes."""
    return f"{PREFIX}/packs/{pack[:2]}/{pack[2:]}"


def segment_key(content: Digest, number: int) -> str:
    """Return where a segment of a large content is; the first one has the number 0."""
    return f"{PREFIX}/objects/{content[:2]}/{content[2:]}/{number}"


def segments(size: int) -> Iterator[int]:
    """Yield the sizes of the segments of a large content."""
    for start in range(0, size, SEGMENT):
        yield min(SEGMENT, size - start)
