"""The words of the code: descriptions begin with what they describe, and avoid some phrases."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ROOMS = ("cas", "mounter", "cli", "tests")
SOURCES = [path for room in ROOMS for path in sorted((PROJECT / room).rglob("*.py"))]
PRODUCT = [path for path in SOURCES if path.relative_to(PROJECT).parts[0] != "tests"]
_QUESTION = re.compile(r"(What|Which|Who|How|Where|When|Why|Whoever|Whatever|Wherever)\b")
_PHRASES = {
    "list, show, print or report, not tell": r"\b(tell|tells|telling|told)\b",
    "name the kind of user, or use the passive": r"\b([Nn]obody|[Ss]omebody|[Aa]nybody)\b",
    "say why it is refused": r"\bmakes? no sense\b",
    "use `is not a`": r"\b(is|are) no (?!longer\b|more\b|such\b)[a-z]+ (of|for|in|to)\b",
    "use `is missing` or `so that … not`": r"\b(lest|let there be|but for)\b",
}
"""Phrases that read as a translation, by the advice."""


def _descriptions(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a module with their lines, those of constants included."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                yield node.lineno, text


def test_description_does_not_begin_with_a_question_word() -> None:
    assert not [
        f"{path.relative_to(PROJECT)}:{line}: {text.splitlines()[0]}"
        for path in SOURCES
        for line, text in _descriptions(path)
        if _QUESTION.match(text)
    ]


@pytest.mark.parametrize("advice", _PHRASES)
def test_phrase_is_avoided(advice: str) -> None:
    assert not [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path in PRODUCT
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(_PHRASES[advice], line)
    ]
