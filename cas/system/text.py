"""Text for people: paths on one line, names of users, spelling suggestions."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable

_ESCAPES = {0x07: r"\a", 0x08: r"\b", 0x09: r"\t", 0x0A: r"\n", 0x0B: r"\v", 0x0C: r"\f",
            0x0D: r"\r", 0x22: r"\"", 0x5C: r"\\"}  # fmt: skip


def quoted(path: bytes | str | os.PathLike[str]) -> str:
    """Return `path` on one line: as it is, or like git in double quotes with C escapes.

    It is quoted if it is empty or contains a control character, `"`, a backslash, a leading or
    trailing space, or bytes that are not UTF-8, so different paths never look the same.
    """
    raw = os.fsencode(path)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = ""
    if text and text.isprintable() and text == text.strip() and not set(text) & {'"', "\\"}:
        return text
    if text and text == text.strip() and all(c.isprintable() or c < " " for c in text):
        return (
            '"'
            + "".join(_ESCAPES.get(ord(c), c) if c >= " " else _byte(ord(c)) for c in text)
            + '"'
        )
    return '"' + "".join(_byte(b) for b in raw) + '"'


def _byte(byte: int) -> str:
    if byte in _ESCAPES:
        return _ESCAPES[byte]
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def suggestion(word: str, words: Iterable[str]) -> str | None:
    """Return "did you mean …?" with the words most like `word`; None if none is similar."""
    import difflib

    near = difflib.get_close_matches(word, words)
    return f"did you mean {' or '.join(near)}?" if near else None


def name_of_user(uid: int) -> str:
    """Return the name of a user, or the number if the user has no name here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)
