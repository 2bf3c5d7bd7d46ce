"""Mutations of valid files, for tests of their readers."""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import strategies as st

FUZZ = int(os.environ.get("CAS_TEST_FUZZ", "60"))
"""The number of examples of each fuzzer."""

TEXTS = {
    "empty": b"",
    "deep-list": b"[" * 100_000,
    "deep-closed-list": b"[" * 100_000 + b"]" * 100_000,
    "deep-object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "not-so-deep-list": b"[" * 400 + b"]" * 400,
    "huge-number": b"[" + b"9" * 5000 + b"]",
    "nan": b"[NaN, Infinity, -Infinity, 1e999]",
    "not-utf-8": b'"\xff\xfe"',
    "utf-16": "[1]".encode("utf-16"),
    "with-mark": b"\xef\xbb\xbf[]",
    "half-a-pair": b'["\\ud800"]',
    "null": b"null",
    "trailing": b"{} {}",
    "zeros": bytes(5000),
}
"""Values that are invalid to every reader."""

_TOKENS = st.sampled_from(
    [*TEXTS.values(), b"..", b"/", b"\0", b"\n", b"1" + b"0" * 30, b"-1", b"NaN", b"\\ud800"]
)
_NAMES = st.sampled_from(["..", "/", "/etc", "a/../b", "\0", "\ud800", "\udcff", "x" * 300, "a@b"])
_NUMBERS = st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**30, 10**4000, 1.5, float("inf"), True])
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.integers() | _NAMES | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def _bytes_like(draw: st.DrawFn, good: bytes) -> bytes:
    data = good
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        match draw(st.sampled_from(["flip", "cut", "drop", "double", "insert", "swap"])):
            case "flip" if start < len(data):
                changed = data[start] ^ (1 << draw(st.integers(0, 7)))
                data = data[:start] + bytes([changed]) + data[start + 1 :]
            case "cut":
                data = data[:start]
            case "drop":
                data = data[:start] + data[end:]
            case "double":
                data = data[:end] + data[start:end] + data[end:]
            case "insert":
                data = data[:start] + draw(_TOKENS | st.binary(max_size=4)) + data[start:]
            case "swap":
                data = data[end:] + data[:end]
    return data


def _places(document: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [place]
    inside: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        inside = list(document.items())
    elif isinstance(document, list):
        inside = list(enumerate(document))
    for key, value in inside:
        found += _places(value, (*place, key))
    return found


@st.composite
def _document_like(draw: st.DrawFn, good: Any) -> bytes:
    document = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(document)))
        if not place:
            document = draw(_VALUES)
            continue
        holder = document
        for key in place[:-1]:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                holder[place[-1]] = draw(_VALUES)
            case "remove":
                del holder[place[-1]]
            case "add" if isinstance(holder, dict):
                holder[draw(_NAMES)] = draw(_VALUES)
            case "add":
                holder.append(draw(_VALUES))
    # Python refuses to convert integers of any size to text.
    text = json.dumps(document, default=str) if _printable(document) else "9" * 5000
    return text.encode(errors="surrogatepass")


def _printable(document: Any) -> bool:
    try:
        json.dumps(document)
    except ValueError:
        return False
    return True


def like(good: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are almost those of a good file; if that is JSON, almost its document too."""
    found = _bytes_like(good) | st.sampled_from(list(TEXTS.values()))
    try:
        return found | _document_like(json.loads(good))
    except ValueError:
        return found
