"""What somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def near_miss(word: str, words: Iterable[str]) -> str | None:
    """Return a question for those of some words that are most like a word; None if none is."""
    import difflib

    near = difflib.get_close_matches(word, words)
    return f"did you mean {' or '.join(near)}?" if near else None
