"""The results of pulls and pushes."""

from __future__ import annotations

import enum
from typing import NamedTuple

from cas.model.artifact import Artifact
from cas.model.signature import Signature


class Outcome(enum.Enum):
    """The outcome for one artifact.

    `PULLED` and `PUSHED`: transferred. `KNOWN`: the destination has it already.
    A pull has these failures. `MISSING`: the remote lacks it, or a part of it. `UNTRUSTED`: no
    trusted key has signed it. `DAMAGED`: corrupt, also after a retry. `REFUSED`: too large to store
    here.
    A push has these failures. `CONFLICT`: the remote has another tree. `MISSING`: it was removed
    from the store meanwhile. `DAMAGED`: it is damaged in the store.
    """

    PULLED = "pulled"
    PUSHED = "pushed"
    KNOWN = "known"
    MISSING = "missing"
    UNTRUSTED = "untrusted"
    DAMAGED = "damaged"
    REFUSED = "refused"
    CONFLICT = "conflict"


class Pulled(NamedTuple):
    """The result of pulling one artifact.

    `fetched` is the number of bytes downloaded, `new_bytes` the size of its new contents, and `why`
    the reason of a failure.
    """

    signature: Signature
    outcome: Outcome
    artifact: Artifact | None = None
    fetched: int = 0
    new_bytes: int = 0
    why: str = ""


class Pushed(NamedTuple):
    """The result of pushing one artifact.

    `sent` is the number of bytes uploaded; `why` is the reason of a failure, or a note about the
    record that it replaced.
    """

    signature: Signature
    outcome: Outcome
    sent: int = 0
    why: str = ""
