"""Records: what a task signature means, in a remote."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NamedTuple

from cas.model.manifest import Digest
from cas.model.signature import Signature
from cas.model.strict_json import parse, record_of
from cas.remote.signing import SigningKey, is_signed

LARGEST = 10_000
"""No record takes more bytes."""
_MOST_MARKS = 50
_SIGNED = b"sysroot-cas record 1\n"


class BadRecord(Exception):
    """What is at the place of a record is not one of that signature; the text says why."""


class RemoteRecord(NamedTuple):
    """Says that `signature` means `tree`, pushed at `pushed_ns` (nanoseconds since 1970).

    `dropped` are the counts of `cas.model.artifact.Dropped`.
    """

    signature: str
    tree: Digest
    dropped: list[int]
    pushed_ns: int


class SignedRecord(NamedTuple):
    """A record, the line that holds it, and its signatures: pairs of public key and mark."""

    record: RemoteRecord
    line: bytes
    marks: list[tuple[str, str]]

    def is_trusted(self, keys: Collection[str]) -> bool:
        """Tell whether one of the keys has signed it; without keys everything is trusted.

        Raises NoRemotes.
        """
        return not keys or self.is_signed_by(keys)

    def is_signed_by(self, keys: Collection[str]) -> bool:
        """Tell whether one of the keys has signed it. Raises NoRemotes."""
        return any(
            public in keys and is_signed(_SIGNED + self.line, public, mark)
            for public, mark in self.marks
        )


def encode(record: RemoteRecord, key: SigningKey | None) -> bytes:
    """Return what is stored of a record, signed if there is a key."""
    line = json.dumps(record._asdict(), separators=(",", ":"), sort_keys=True).encode()
    return signed_too(SignedRecord(record, line, []), key)


def signed_too(there: SignedRecord, key: SigningKey | None) -> bytes:
    """Return what is stored of a record that is there, signed by a key too if there is one.

    If there are too many signatures, or something else is too long, the last ones go.
    """
    marks = there.marks
    if key is not None and not there.is_signed_by({key.public}):
        sound = [one for one in marks if is_signed(_SIGNED + there.line, *one)]
        marks = [(key.public, key.sign(_SIGNED + there.line)), *sound][:_MOST_MARKS]
    data = b"\n".join([there.line, *(f"{public} {mark}".encode() for public, mark in marks), b""])
    return data if len(data) <= LARGEST else encode(there.record, key)


def decode(data: bytes, signature: Signature) -> SignedRecord:
    """Read the record of a signature, which may come from anybody. Raises BadRecord."""
    line, *rest = data.split(b"\n")
    try:
        record = record_of(RemoteRecord, parse(line))
        if len(record.dropped) != 3 or max(record.dropped) >= 1 << 32:
            raise ValueError("it does not count three things that were dropped")
        if record.signature != str(signature):
            raise ValueError(f"it is that of {record.signature[:300]!a}")
        marks = [(public, mark) for text in rest if text for public, mark in [_mark(text)]]
    except ValueError as error:
        raise BadRecord(str(error)) from error
    return SignedRecord(record, line, marks)


def _mark(text: bytes) -> tuple[str, str]:
    public, space, mark = text.decode("ascii").partition(" ")
    if not space:
        raise ValueError("a line of it is no key and no signature")
    return public, mark
