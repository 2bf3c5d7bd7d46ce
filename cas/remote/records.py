"""Records in a remote: the tree of an ID, with signatures."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NamedTuple

from cas.model.manifest import Digest
from cas.model.signature import Signature
from cas.model.strict_json import parse, record_of
from cas.remote.signing import SigningKey, is_signed

MAX_BYTES = 10_000
"""The limit for a record."""
_MAX_MARKS = 50
_SIGNED_PREFIX = b"sysroot-cas record 1\n"


class BadRecord(Exception):
    """The object at the key of a record is not its record; the text is the reason."""


class RemoteRecord(NamedTuple):
    """The record that the ID `signature` has `tree`, pushed at `pushed_ns` (ns since 1970).

    `dropped` are the counts of `cas.model.artifact.Dropped`.
    """

    signature: str
    tree: Digest
    dropped: list[int]
    pushed_ns: int


class SignedRecord(NamedTuple):
    """A record, its line in the file, and its signatures: pairs of public key and mark."""

    record: RemoteRecord
    line: bytes
    marks: list[tuple[str, str]]

    def is_trusted(self, keys: Collection[str]) -> bool:
        """Return whether one of the keys has signed the record; True without keys.

        Raises NoRemotes.
        """
        return not keys or self.is_signed_by(keys)

    def is_signed_by(self, keys: Collection[str]) -> bool:
        """Return whether one of the keys has signed the record. Raises NoRemotes."""
        return any(
            public in keys and is_signed(_SIGNED_PREFIX + self.line, public, mark)
            for public, mark in self.marks
        )


def encode(record: RemoteRecord, key: SigningKey | None) -> bytes:
    """Return the encoded record, signed if there is a key."""
    line = json.dumps(record._asdict(), separators=(",", ":"), sort_keys=True).encode()
    return add_signature(SignedRecord(record, line, []), key)


def add_signature(record: SignedRecord, key: SigningKey | None) -> bytes:
    """Return an encoded existing record with the signature of `key` added, if there is a key.

    If there are too many signatures, or the record gets too large, the last ones are dropped.
    """
    marks = record.marks
    if key is not None and not record.is_signed_by({key.public}):
        valid = [mark for mark in marks if is_signed(_SIGNED_PREFIX + record.line, *mark)]
        marks = [(key.public, key.sign(_SIGNED_PREFIX + record.line)), *valid][:_MAX_MARKS]
    data = b"\n".join([record.line, *(f"{public} {mark}".encode() for public, mark in marks), b""])
    return data if len(data) <= MAX_BYTES else encode(record.record, key)


def decode(data: bytes, signature: Signature) -> SignedRecord:
    """Decode the untrusted record of an ID. Raises BadRecord."""
    line, *rest = data.split(b"\n")
    try:
        record = record_of(RemoteRecord, parse(line))
        if len(record.dropped) != 3 or max(record.dropped) >= 1 << 32:
            raise ValueError("it does not have three counts of dropped properties")
        if record.signature != str(signature):
            raise ValueError(f"it belongs to {record.signature[:300]!a}")
        marks = [(public, mark) for text in rest if text for public, mark in [_mark(text)]]
    except ValueError as error:
        raise BadRecord(str(error)) from error
    return SignedRecord(record, line, marks)


def _mark(text: bytes) -> tuple[str, str]:
    public, space, mark = text.decode("ascii").partition(" ")
    if not space:
        raise ValueError("a line is not a key and a signature")
    return public, mark
