"""Findings: faults in a store."""

from __future__ import annotations

import enum
from typing import NamedTuple

from cas.model.manifest import Digest
from cas.system.text import quoted


class FaultKind(enum.Enum):
    """Kinds of faults.

    INDEX: the index is unreadable, or a record in it is corrupt. RECORD: a record does not match
    its manifest. MANIFEST: a manifest is missing or damaged. LAYER: a layer is missing. ENTRY: an
    entry of a layer is missing or differs from the stored one. CONTENT: a content does not match
    its digest. WRITTEN: the time of a file shows that it was written to. MODE: the permissions
    changed. STATE: a pin, a lease or a mount record is corrupt. OBJECT: a content has lost its
    name. LINK: the link of an artifact is missing or wrong. LINKS: a file has more hard links than
    the store made. STRAY: a leftover that nothing names. FOREIGN: an entry that does not belong
    there.
    """

    INDEX = "index"
    RECORD = "record"
    MANIFEST = "manifest"
    LAYER = "layer"
    ENTRY = "entry"
    CONTENT = "content"
    WRITTEN = "written"
    MODE = "mode"
    STATE = "state"
    OBJECT = "object"
    LINK = "link"
    LINKS = "links"
    STRAY = "stray"
    FOREIGN = "foreign"

    @property
    def is_damage(self) -> bool:
        """Whether data that is served or relied on is wrong."""
        return self not in (FaultKind.OBJECT, FaultKind.LINK, FaultKind.LINKS, FaultKind.STRAY)


class Finding(NamedTuple):
    """A fault at `path`, relative to the store; `what` describes it, as text after the path.

    `signatures` are the affected artifacts, and `trees` their trees and merged layers, if known.
    """

    kind: FaultKind
    path: bytes
    what: str
    signatures: tuple[str, ...] = ()
    trees: tuple[Digest, ...] = ()

    def __str__(self) -> str:
        owners = f" ({', '.join(map(quoted, self.signatures))})" if self.signatures else ""
        return f"{self.kind.value}: {quoted(self.path)} {self.what}{owners}"
