"""What becomes of artifacts that are pulled or pushed."""

from __future__ import annotations

import enum
from typing import NamedTuple

from cas.model.artifact import Artifact
from cas.model.signature import Signature


class Outcome(enum.Enum):
    """What became of an artifact.

    `KNOWN` was at its place already. Of those that were to be pulled, `MISSING` are not in the
    remote, or not wholly; `UNTRUSTED` were not signed by anybody who is trusted; `DAMAGED` are not
    what they should be, also when asked for again; of `REFUSED` there is too much. Of those that
    were to be pushed, `CONFLICT` are in the remote with another tree, `MISSING` are not in the
    store any more, and `DAMAGED` are not as they were put.
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
    """What became of one that was asked for.

    `fetched` is how many bytes came for it, `new_bytes` how many of its contents were new here;
    `why` says what is wrong with one that cannot be had though something is there.
    """

    signature: Signature
    outcome: Outcome
    artifact: Artifact | None = None
    fetched: int = 0
    new_bytes: int = 0
    why: str = ""


class Pushed(NamedTuple):
    """What became of one that was to be pushed.

    `sent` is how many bytes went out for it; `why` says what is wrong, or was there before.
    """

    signature: Signature
    outcome: Outcome
    sent: int = 0
    why: str = ""
