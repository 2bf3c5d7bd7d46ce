"""Task signatures: the names under which trees are stored."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cas.errors import CasError, ExitCode
from cas.system.text import quoted

_FIELD = re.compile(r"[A-Za-z0-9._+-]+")
_HASH = re.compile(r"[0-9A-Za-z]{8,128}")
_SHORTEST_PREFIX = 4  # of a hash, as in git
MAX_LENGTH = 255  # so that every part is a file name and the whole an LMDB key


class BadSignature(CasError):
    """A string is not a whole task signature."""

    exit_code = ExitCode.USAGE

    def __init__(self, text: str, why: str) -> None:
        super().__init__(
            f"not a task signature: {text!r}: {why}",
            hint="give RECIPE:TASK:HASH or RECIPE:ARCH:TASK:HASH, "
            "for example zlib:core2-64:do_populate_sysroot:9f2c41d0",
        )


class NoSuchSignature(CasError):
    """Nothing is stored under a signature or abbreviation; `missing` holds them as given."""

    exit_code = ExitCode.NO_SIGNATURE

    def __init__(
        self, missing: list[str], store: str, hint: str = "`cas ls` shows what is there"
    ) -> None:
        self.missing = missing
        names = ", ".join(map(quoted, missing[:10])) + (", …" if len(missing) > 10 else "")
        super().__init__(f"no such signature in {store}: {names}", hint=hint)


class AmbiguousSignature(CasError):
    """An abbreviation stands for several signatures, which `candidates` holds."""

    exit_code = ExitCode.NO_SIGNATURE

    def __init__(self, text: str, candidates: list[Signature]) -> None:
        self.candidates = candidates
        shown = [f"\n  {signature}" for signature in candidates[:20]]
        more = f"\n  … and {len(candidates) - 20} more" if len(candidates) > 20 else ""
        super().__init__(
            f"{text!r} is ambiguous, it could be:{''.join(shown)}{more}",
            hint="give more of the signature",
        )


class Signature(NamedTuple):
    """The name of one task's output: recipe, package architecture or None, task, and hash.

    The hash alone is no key: BitBake hashes unexpanded text, and gives recipes that differ only
    in their name the same hash.
    """

    recipe: str
    arch: str | None
    task: str
    hash: str

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Read a whole signature, `RECIPE:TASK:HASH` or `RECIPE:ARCH:TASK:HASH`.

        Raises BadSignature.
        """
        fields = text.split(":")
        if len(fields) not in (3, 4):
            raise BadSignature(text, f"{len(fields)} field(s), not three or four")
        for field in fields[:-1]:
            if not _FIELD.fullmatch(field) or field in (".", ".."):
                raise BadSignature(text, f"{field!r} is no recipe, arch or task ([A-Za-z0-9._+-])")
        if not _HASH.fullmatch(fields[-1]):
            raise BadSignature(text, f"{fields[-1]!r} is no hash (8 to 128 letters and digits)")
        if len(text) > MAX_LENGTH:
            raise BadSignature(text, f"longer than {MAX_LENGTH} characters")
        if len(fields) == 3:
            return cls(fields[0], None, fields[1], fields[2])
        return cls(*fields)

    def __str__(self) -> str:
        return ":".join(self.fields)

    @property
    def fields(self) -> tuple[str, ...]:
        """The three or four parts in order."""
        arch = () if self.arch is None else (self.arch,)
        return (self.recipe, *arch, self.task, self.hash)

    def matches(self, abbreviation: str, *, cut_hash: bool) -> bool:
        """Tell whether `abbreviation` names this signature.

        It does if its fields are fields of this signature, in order, some left out. With
        `cut_hash` its last field has to be the beginning of the hash, four characters or more.
        """
        wanted = abbreviation.split(":")
        if cut_hash:
            prefix = wanted.pop()
            if len(prefix) < _SHORTEST_PREFIX or not self.hash.startswith(prefix):
                return False
        left = iter(self.fields[:-1] if cut_hash else self.fields)
        return all(field in left for field in wanted)


def pick(text: str, candidates: Iterable[Signature]) -> Signature | None:
    """Return which of `candidates` a signature or abbreviation names; None if it names none.

    Whole fields come before the beginning of a hash. Raises AmbiguousSignature.
    """
    among = list(candidates)
    for cut_hash in (False, True):
        matching = [s for s in among if str(s) == text or s.matches(text, cut_hash=cut_hash)]
        exact = [s for s in matching if str(s) == text]
        if len(matching) > 1 and not exact:
            raise AmbiguousSignature(text, matching)
        if matching:
            return (exact or matching)[0]
    return None


def named_by(text: str, like: Callable[[str], Iterable[Signature]]) -> Iterable[Signature]:
    """Return a whole signature, or all that an abbreviation may name among what `like` finds.

    Raises BadSignature if `text` can be neither.
    """
    with contextlib.suppress(BadSignature):
        return [Signature.parse(text)]
    if not all(map(_FIELD.fullmatch, text.split(":"))):
        raise BadSignature(text, "neither that, nor an abbreviation of one")
    return [s for s in like(text) if any(s.matches(text, cut_hash=cut) for cut in (False, True))]
