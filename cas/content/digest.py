"""BLAKE3 digests, the only hash of the store."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from blake3 import blake3

from cas.model.manifest import BadManifest, Digest, Manifest

_CHUNK_BYTES = 1 << 20


class Hashed(NamedTuple):
    """The digest and the size (bytes) of data that was hashed."""

    digest: Digest
    size: int


def hash_bytes(data: bytes) -> Digest:
    """Return the BLAKE3 digest of `data` in lower-case hexadecimal."""
    return Digest(blake3(data).hexdigest())


def hash_file(fd: int, copy_to: int | None = None) -> Hashed:
    """Hash the file open at `fd` from its beginning to its end.

    The data is also written to the descriptor `copy_to`, so the digest matches the copy even if the
    original changes meanwhile. Raises OSError.
    """
    hasher = blake3()
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, os.fstat(fd).st_size + 1)))
    size = 0
    while count := os.preadv(fd, [buffer], size):
        hasher.update(buffer[:count])
        if copy_to is not None:
            write_all(copy_to, buffer[:count])
        size += count
    return Hashed(Digest(hasher.hexdigest()), size)


def hash_stream(read: Callable[[int], bytes], copy_to: int) -> Hashed:
    """Hash the data that `read` returns until its end, and write it to a descriptor.

    Raises OSError, and the exceptions of `read`.
    """
    hasher = blake3()
    size = 0
    while data := read(_CHUNK_BYTES):
        hasher.update(data)
        write_all(copy_to, data)
        size += len(data)
    return Hashed(Digest(hasher.hexdigest()), size)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` at the current position of `fd`. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def verified_manifest(data: bytes, tree: Digest, *, to_compare: bool = False) -> Manifest:
    """Decode the manifest of a stored `tree` after checking its digest. Raises BadManifest.

    A matching digest does not make the paths safe: an attacker may have chosen both. Only a
    manifest that is merely compared (`to_compare`) is not validated; see `Manifest.decode_trusted`.
    """
    if hash_bytes(data) != tree:
        raise BadManifest(f"it does not match the digest of tree {tree}")
    return Manifest.decode_trusted(data) if to_compare else Manifest.decode(data)
