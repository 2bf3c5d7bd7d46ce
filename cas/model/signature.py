"""IDs: the task signatures under which trees are stored."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cas.errors import CasError, ExitCode
from cas.system.text import quoted

_FIELD = re.compile(r"[A-Za-z0-9._+-]+")
_HASH = re.compile(r"[0-9A-Za-z]{8,128}")
_MIN_PREFIX_LENGTH = 4
"""Shortest prefix of a hash that counts as an abbreviation, as in git."""
_MAX_MISSING_SHOWN = 10
_MAX_CANDIDATES_SHOWN = 20
MAX_LENGTH = 255
"""Each field can be a file name (NAME_MAX), and the whole ID a key of LMDB."""


class BadSignature(CasError):
    """A string is not a complete ID."""

    exit_code = ExitCode.USAGE

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(
            f"not an ID: {text!r}: {reason}",
            hint="use RECIPE:TASK:HASH or RECIPE:ARCH:TASK:HASH, "
            "for example zlib:core2-64:do_populate_sysroot:9f2c41d0",
        )


class NoSuchSignature(CasError):
    """No artifact matches; `missing` lists the IDs and abbreviations as given."""

    exit_code = ExitCode.NO_SIGNATURE

    def __init__(
        self, missing: list[str], store: str, hint: str = "list the stored IDs with `cas ls`"
    ) -> None:
        self.missing = missing
        names = ", ".join(map(quoted, missing[:_MAX_MISSING_SHOWN]))
        names += ", …" if len(missing) > _MAX_MISSING_SHOWN else ""
        super().__init__(f"no such ID in {store}: {names}", hint=hint)


class AmbiguousSignature(CasError):
    """An abbreviation matches several IDs, the `candidates`."""

    exit_code = ExitCode.NO_SIGNATURE

    def __init__(self, text: str, candidates: list[Signature]) -> None:
        self.candidates = candidates
        shown = [f"\n  {signature}" for signature in candidates[:_MAX_CANDIDATES_SHOWN]]
        left_out = len(candidates) - _MAX_CANDIDATES_SHOWN
        rest = f"\n  … and {left_out} more" if left_out > 0 else ""
        super().__init__(
            f"{text!r} is ambiguous; it matches:{''.join(shown)}{rest}",
            hint="give more of the ID",
        )


class Signature(NamedTuple):
    """The ID of a task's output: recipe, package architecture or None, task, and hash.

    The hash alone does not identify it: BitBake hashes unexpanded text, so recipes that differ only
    in their names have equal hashes.
    """

    recipe: str
    arch: str | None
    task: str
    hash: str

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Parse a complete ID, `RECIPE:TASK:HASH` or `RECIPE:ARCH:TASK:HASH`.

        Raises BadSignature.
        """
        fields = text.split(":")
        if len(fields) not in (3, 4):
            raise BadSignature(text, f"it has {len(fields)} field(s), not three or four")
        for field in fields[:-1]:
            if not _FIELD.fullmatch(field) or field in (".", ".."):
                raise BadSignature(text, f"{field!r} has characters other than A-Za-z0-9._+-")
        if not _HASH.fullmatch(fields[-1]):
            raise BadSignature(text, f"{fields[-1]!r} is not a hash (8 to 128 letters and digits)")
        if len(text) > MAX_LENGTH:
            raise BadSignature(text, f"it is longer than {MAX_LENGTH} characters")
        if len(fields) == 3:
            return cls(fields[0], None, fields[1], fields[2])
        return cls(*fields)

    def __str__(self) -> str:
        return ":".join(self.fields)

    @property
    def fields(self) -> tuple[str, ...]:
        """The three or four fields in order."""
        arch = () if self.arch is None else (self.arch,)
        return (self.recipe, *arch, self.task, self.hash)

    def matches(self, abbreviation: str, *, cut_hash: bool) -> bool:
        """Return whether `abbreviation` matches this ID.

        Its fields must be fields of this ID in the same order; some may be missing. With
        `cut_hash`, its last field must be a prefix of the hash, at least four characters long.
        """
        wanted = abbreviation.split(":")
        if cut_hash:
            prefix = wanted.pop()
            if len(prefix) < _MIN_PREFIX_LENGTH or not self.hash.startswith(prefix):
                return False
        remaining = iter(self.fields[:-1] if cut_hash else self.fields)
        # `in` consumes the iterator up to the field, so the order counts.
        return all(field in remaining for field in wanted)


def best_match(text: str, candidates: Iterable[Signature]) -> Signature | None:
    """Return the candidate that an ID or abbreviation matches, or None.

    Complete fields take precedence over a prefix of the hash. Raises AmbiguousSignature.
    """
    signatures = list(candidates)
    for cut_hash in (False, True):
        matching = [s for s in signatures if str(s) == text or s.matches(text, cut_hash=cut_hash)]
        exact = [s for s in matching if str(s) == text]
        if len(matching) > 1 and not exact:
            raise AmbiguousSignature(text, matching)
        if matching:
            return (exact or matching)[0]
    return None


def matching_ids(text: str, like: Callable[[str], Iterable[Signature]]) -> Iterable[Signature]:
    """Return a complete ID, or the IDs that an abbreviation matches among the results of `like`.

    Raises BadSignature if `text` is neither.
    """
    with contextlib.suppress(BadSignature):
        return [Signature.parse(text)]
    if not all(map(_FIELD.fullmatch, text.split(":"))):
        raise BadSignature(text, "it is not an abbreviation of one either")
    return [s for s in like(text) if any(s.matches(text, cut_hash=cut) for cut in (False, True))]
