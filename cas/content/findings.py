"""What can be wrong in a store."""

from __future__ import annotations

import enum
from typing import NamedTuple

from cas.model.manifest import Digest
from cas.system.text import quoted


class FaultKind(enum.Enum):
    """The kinds of what can be wrong.

    INDEX: the index cannot be read, or a record in it is corrupt. RECORD: it does not agree
    with its manifest. MANIFEST, LAYER: it is missing, a manifest damaged. ENTRY: a path of a
    layer is missing, or is not what was stored. CONTENT: bytes are not those of their digest.
    WRITTEN: the time of a file shows that it was written to. MODE: not the permissions it was
    given. STATE: a pin, a lease or the record of a mount is corrupt. OBJECT: a content has
    lost its name. LINK: the link of an artifact is missing or wrong. LINKS: more hard links
    than the store made. STRAY: not the name of anything. FOREIGN: something is where nothing,
    or something else, has to be.
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
        """Whether something that is served, or relied on, is not what was put there."""
        return self not in (FaultKind.OBJECT, FaultKind.LINK, FaultKind.LINKS, FaultKind.STRAY)


class Finding(NamedTuple):
    """Something is wrong at `path`, relative to the store; `what` says it, as text after the path.

    `signatures` are the artifacts that have it, and `trees` their trees and merged layers, as far
    as they are known.
    """

    kind: FaultKind
    path: bytes
    what: str
    signatures: tuple[str, ...] = ()
    trees: tuple[Digest, ...] = ()

    def __str__(self) -> str:
        whose = f" ({', '.join(map(quoted, self.signatures))})" if self.signatures else ""
        return f"{self.kind.value}: {quoted(self.path)} {self.what}{whose}"
