"""Artifact records: what the index says of a task signature."""

from __future__ import annotations

import json
from dataclasses import dataclass

from cas.errors import StoreDamaged
from cas.manifest import Digest
from cas.signature import Signature


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many files of a tree had what the store does not keep."""

    set_id_bits: int = 0
    xattrs: int = 0
    owners: int = 0


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored tree: `files` regular files of `size` bytes together, and other entries.

    `created_ns` is the time of the put in nanoseconds since 1970. `boot_id` names the boot in
    which it was put; None once its data is known to be on the disk.
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

    def encode(self) -> bytes:
        """Return the record as the index keeps it."""
        record = {
            "tree": self.tree,
            "files": self.files,
            "directories": self.directories,
            "symlinks": self.symlinks,
            "size": self.size,
            "created_ns": self.created_ns,
            "boot_id": self.boot_id,
            "dropped": [self.dropped.set_id_bits, self.dropped.xattrs, self.dropped.owners],
        }
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, signature: Signature, data: bytes) -> Artifact:
        """Read a record of the index. Raises StoreDamaged."""
        try:
            record = json.loads(data)
            dropped = Dropped(*record.pop("dropped"))
            return cls(signature=signature, dropped=dropped, **record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreDamaged(f"the record of {signature} makes no sense: {error}") from error
