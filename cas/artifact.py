"""Artifact records: what the index says of a task signature."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

from cas.documents import fits, parse, record_of
from cas.errors import StoreDamaged
from cas.manifest import Digest
from cas.signature import Signature

_CHECKSUM = 9  # bytes
_HINT = "`cas verify --repair` makes it again from the artifact"


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many files of a tree had what the store does not keep."""

    set_id_bits: int = 0
    xattrs: int = 0
    owners: int = 0


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored tree: `files` regular files of `size` bytes together, and other entries.

    `overhead` is the bytes of disk that its layer and manifest take besides the contents.
    `created_ns` is the time of the put in nanoseconds since 1970. `boot_id` names the boot in
    which it was put; None once its data is known to be on the disk.
    """

    signature: Signature
    tree: Digest
    files: int
    directories: int
    symlinks: int
    size: int
    overhead: int
    created_ns: int
    boot_id: str | None
    dropped: Dropped = Dropped()

    def encode(self) -> bytes:
        """Return the record as the index keeps it."""
        record = {
            "tree": self.tree,
            "files": self.files,
            "directories": self.directories,
            "symlinks": self.symlinks,
            "size": self.size,
            "overhead": self.overhead,
            "created_ns": self.created_ns,
            "boot_id": self.boot_id,
            "dropped": [self.dropped.set_id_bits, self.dropped.xattrs, self.dropped.owners],
        }
        data = json.dumps(record, separators=(",", ":")).encode()
        return _checksum(self.signature, data) + data

    @classmethod
    def decode(cls, signature: Signature, data: bytes) -> Artifact:
        """Read a record of the index. Raises StoreDamaged."""
        checksum, data = data[:_CHECKSUM], data[_CHECKSUM:]
        if checksum != _checksum(signature, data):
            raise StoreDamaged(f"the record of {signature} is damaged", hint=_HINT)
        try:
            record = parse(data)
            dropped = record.pop("dropped")
            if not fits(dropped, list[int]):
                raise ValueError("what was dropped is no list of numbers")
            return record_of(cls, record, signature=signature, dropped=Dropped(*dropped))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            what = f"the record of {signature} makes no sense: {error}"
            raise StoreDamaged(what, hint=_HINT) from error


def _checksum(signature: Signature, data: bytes) -> bytes:
    """Return what tells a record that a disk has changed: neither file nor LMDB would."""
    return f"{zlib.crc32(data, zlib.crc32(str(signature).encode())):08x} ".encode()
