"""BLAKE3, the only hash of the store."""

from __future__ import annotations

import os
from collections.abc import Callable

from blake3 import blake3

from cas.model.manifest import BadManifest, Digest, Manifest

_CHUNK = 1 << 20


def hash_bytes(data: bytes) -> Digest:
    """Return the BLAKE3 digest of `data` in lower-case hexadecimal."""
    return Digest(blake3(data).hexdigest())


def hash_file(fd: int, copy_to: int | None = None) -> tuple[Digest, int]:
    """Hash the file open at `fd` from its beginning to its end; return digest and length.

    What is read is also written to the descriptor `copy_to`, so that the digest is that of the
    copy whatever happens to the original. Raises OSError.
    """
    hasher = blake3()
    buffer = memoryview(bytearray(min(_CHUNK, os.fstat(fd).st_size + 1)))
    length = 0
    while count := os.preadv(fd, [buffer], length):
        hasher.update(buffer[:count])
        if copy_to is not None:
            write_all(copy_to, buffer[:count])
        length += count
    return Digest(hasher.hexdigest()), length


def hash_stream(read: Callable[[int], bytes], copy_to: int) -> tuple[Digest, int]:
    """Hash what `read` gives until there is no more, and write it to a descriptor.

    Returns digest and length. Raises OSError, and what `read` raises.
    """
    hasher = blake3()
    length = 0
    while data := read(_CHUNK):
        hasher.update(data)
        write_all(copy_to, data)
        length += len(data)
    return Digest(hasher.hexdigest()), length


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` at the position of `fd`. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def verified_manifest(data: bytes, tree: Digest, *, to_compare: bool = False) -> Manifest:
    """Decode the canonical bytes of the manifest of a stored `tree`. Raises BadManifest.

    The right digest does not make paths right: both may be another's. Only what is no more than
    compared, with `to_compare`, need not be looked at; see `Manifest.decode_trusted`.
    """
    if hash_bytes(data) != tree:
        raise BadManifest(f"its bytes are not those of tree {tree}")
    return Manifest.decode_trusted(data) if to_compare else Manifest.decode(data)
