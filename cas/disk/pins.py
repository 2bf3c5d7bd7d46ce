"""Pins: artifacts that gc keeps until they are unpinned.

A pin is a file in `pins/` of the store, named by the ID. It is on the disk when `Pins.add` returns,
and does not need the index.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import NamedTuple

from cas.disk.scratch import replace_file
from cas.errors import CasError, ExitCode, StoreDamaged
from cas.model.signature import BadSignature, Signature, best_match
from cas.model.strict_json import parse, record_of
from cas.system.debug_log import debug
from cas.system.files import read_sealed, seal
from cas.system.text import quoted


class Pin(NamedTuple):
    """A pin on `signature`, set at `since_ns` (since 1970) by user `uid`; `reason` is a note."""

    signature: Signature
    reason: str
    since_ns: int
    uid: int


class NotPinned(CasError):
    """An ID or abbreviation matches no pin."""

    exit_code = ExitCode.NO_SIGNATURE

    def __init__(self, name: str) -> None:
        super().__init__(f"{quoted(name)} is not pinned", hint="list the pins with `cas pins`")


class Pins:
    """The pins of the store at the absolute path `store`."""

    def __init__(self, store: bytes) -> None:
        self._store = store
        self._directory = os.path.join(store, b"pins")

    def add(self, pin: Pin) -> None:
        """Store a pin, replacing an earlier one of the same ID. Raises OSError."""
        record = pin._asdict() | {"signature": str(pin.signature)}
        replace_file(self._store, _path(pin.signature), seal(json.dumps(record)), durable=True)
        debug("pinned %s", pin.signature)

    def find(self, name: str) -> Signature:
        """Return the pinned ID that an ID or abbreviation matches.

        Raises NotPinned, AmbiguousSignature, OSError.
        """
        signature = best_match(name, self.signatures())
        if signature is None:
            raise NotPinned(name)
        return signature

    def remove(self, signature: Signature) -> None:
        """Remove a pin, if there is one. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._store, _path(signature)))
            debug("unpinned %s", signature)

    def signatures(self) -> set[Signature]:
        """Return the pinned IDs. Raises OSError."""
        pinned = set()
        for name in os.listdir(self._directory):
            with contextlib.suppress(BadSignature):
                pinned.add(Signature.parse(os.fsdecode(name)))
        return pinned

    def all(self) -> list[Pin]:
        """Return the pins in the order of their IDs. Raises OSError, StoreDamaged."""
        pins = (self._read(signature) for signature in sorted(self.signatures(), key=str))
        return [pin for pin in pins if pin is not None]

    def _read(self, signature: Signature) -> Pin | None:
        path = os.path.join(self._store, _path(signature))
        try:
            document = parse(read_sealed(path))
            if not isinstance(document, dict) or document.pop("signature", "") != str(signature):
                raise ValueError("it belongs to another ID")
            return record_of(Pin, document, signature=signature)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreDamaged(
                f"the pin {quoted(path)} is corrupt: {error}",
                hint=f"pin {signature} again, or unpin it",
            ) from error


def _path(signature: Signature) -> bytes:
    return b"pins/" + str(signature).encode()
