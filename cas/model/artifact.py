"""Artifacts, and their records in the index."""

from __future__ import annotations

import os
import struct
import zlib
from typing import NamedTuple

from cas.errors import StoreDamaged
from cas.model.manifest import Digest
from cas.model.signature import BadSignature, Signature
from cas.model.strict_json import VALID_NUMBERS
from cas.system.text import quoted

_CHECKSUM = struct.Struct("<I")
_TREE = slice(_CHECKSUM.size, _CHECKSUM.size + 32)
_BOOT = slice(_TREE.stop, _TREE.stop + 36)
_REST = struct.Struct("<6Q3I")
_ENTRIES = struct.Struct("<3Q")
_LENGTH = _BOOT.stop + _REST.size
_NO_BOOT = bytes(36)
_BLOCK_BYTES = 4096
_MANIFEST_BYTES_PER_ENTRY = 100
_HINT = "run `cas verify --repair`, which rebuilds the record from the artifact"


class Dropped(NamedTuple):
    """The number of files that had properties which the store does not keep."""

    set_id_bits: int = 0
    xattrs: int = 0
    owners: int = 0


class Artifact(NamedTuple):
    """A stored tree under its ID: `files` regular files of `size` bytes in all, and other entries.

    `created_ns` is the time of the put (nanoseconds since 1970). `boot_id` is the boot in which it
    was put, or None if its data is known to be on the disk.
    """

    signature: Signature
    tree: Digest
    files: int
    directories: int
    symlinks: int
    size: int
    created_ns: int
    boot_id: str | None
    dropped: Dropped = Dropped()

    @property
    def layer_bytes(self) -> int:
        """An estimate of the disk space (bytes) of its layer and manifest without the contents."""
        return estimate_layer_bytes(self.directories, self.files + self.symlinks)

    def record(self) -> IndexRecord:
        """Return the record that the index stores."""
        counts = (self.files, self.directories, self.symlinks)
        dropped = (self.dropped.set_id_bits, self.dropped.xattrs, self.dropped.owners)
        rest = _REST.pack(*counts, self.size, self.layer_bytes, self.created_ns, *dropped)
        data = bytes.fromhex(self.tree) + _boot(self.boot_id) + rest
        name = str(self.signature)
        return IndexRecord(name, _CHECKSUM.pack(_checksum(name, data)) + data)


class IndexRecord(NamedTuple):
    """The `data` that the index stores for the ID `name`.

    A composition may have hundreds of records, so the properties that it needs are decoded alone.
    """

    name: str
    data: bytes

    @property
    def tree(self) -> Digest:
        """The artifact's tree. Raises StoreDamaged."""
        data = self.data
        (checksum,) = _CHECKSUM.unpack_from(data) if len(data) == _LENGTH else (None,)
        if checksum != _checksum(self.name, data[_CHECKSUM.size :]):
            raise StoreDamaged(f"the record of {self.name} is damaged", hint=_HINT)
        return Digest(data[_TREE].hex())

    @property
    def entries(self) -> int:
        """The number of files, directories and symbolic links of the tree."""
        return sum(_ENTRIES.unpack_from(self.data, _BOOT.stop))

    @property
    def is_safe(self) -> bool:
        """Whether the artifact's data is known to be on the disk."""
        return self.data[_BOOT] == _NO_BOOT

    def is_of_boot(self, boot_id: str) -> bool:
        """Return whether the artifact was put in the given boot."""
        return self.data[_BOOT] == _boot(boot_id)

    def artifact(self) -> Artifact:
        """Return the artifact. Raises StoreDamaged."""
        signature, tree = recorded_signature(self.name), self.tree
        files, directories, symlinks, *sizes, set_id, xattrs, owners = _REST.unpack_from(
            self.data, _BOOT.stop
        )
        size, _, created_ns = sizes
        try:
            boot_id = None if self.is_safe else self.data[_BOOT].decode("ascii").rstrip()
            if max(sizes) not in VALID_NUMBERS:
                raise ValueError(f"{max(sizes)} is out of range")
        except ValueError as error:
            message = f"the record of {self.name} is corrupt: {error}"
            raise StoreDamaged(message, hint=_HINT) from error
        return Artifact(
            signature=signature,
            tree=tree,
            files=files,
            directories=directories,
            symlinks=symlinks,
            size=size,
            created_ns=created_ns,
            boot_id=boot_id,
            dropped=Dropped(set_id, xattrs, owners),
        )


def estimate_layer_bytes(directories: int, others: int) -> int:
    """Estimate the disk space (bytes) of a layer and its manifest without the contents.

    A directory takes a block on ext4, and less on XFS, Btrfs and tmpfs, which keep small ones in
    the inode. Symbolic links take none.
    """
    manifest_bytes = (directories + others) * _MANIFEST_BYTES_PER_ENTRY
    return (directories + 1) * _BLOCK_BYTES + -(-manifest_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def recorded_signature(name: str) -> Signature:
    """Parse an ID from the index. Raises StoreDamaged."""
    try:
        return Signature.parse(name)
    except BadSignature as error:
        hint = "run `cas rebuild-index`, which rebuilds the index from the store"
        raise StoreDamaged(
            f"the index has {quoted(name)}, which is not an ID", hint=hint
        ) from error


def _boot(boot_id: str | None) -> bytes:
    return _NO_BOOT if boot_id is None else b"%-36.36b" % boot_id.encode()


def _checksum(name: str, data: bytes) -> int:
    """Return the checksum of a record; LMDB has none, so a flipped bit would go unseen."""
    return zlib.crc32(data, zlib.crc32(os.fsencode(name)))
