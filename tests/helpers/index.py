"""The index of an open store, for tests that need a state that no command leaves behind.

A test cannot wait until an artifact is old, or until a disk flips a bit. So these functions, and no
others, use private names of the store and of its index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cas.index.database import Index
from cas.model.artifact import Artifact
from cas.store import Store


def index_of(store: Store) -> Index:
    """Return the index of an open store."""
    return store._storage.index


def change_record(store: Store, artifact: Artifact, **fields: Any) -> None:
    """Replace fields of an artifact's record, such as its time or its boot."""
    with index_of(store).write() as writer:
        writer.put(artifact._replace(**fields))


def damage_record(store: Store, key: bytes, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of a record."""
    with index_of(store).write() as writer:
        data = bytes(writer._txn.get(key, db=writer._artifacts) or b"")
        writer._txn.put(key, change(data), db=writer._artifacts)


def rename_record(store: Store, old: bytes, new: bytes) -> None:
    """Move a record to another key."""
    with index_of(store).write() as writer:
        data = bytes(writer._txn.pop(old, db=writer._artifacts) or b"")
        writer._txn.put(new, data, db=writer._artifacts)


def delete_hash(store: Store, key: bytes) -> None:
    """Delete a key of the table that finds artifacts by the hashes in their IDs."""
    with index_of(store).write() as writer:
        writer._txn.delete(key, db=writer._hashes)
