"""Strict JSON: duplicate keys, deep nesting and wrong types are refused."""

from __future__ import annotations

import json
import os
import types
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from cas.model.manifest import Digest, is_digest

_Record = TypeVar("_Record")
_MAX_DEPTH = 50
VALID_NUMBERS = range(1 << 63)
"""Covers all sizes of files and all times in nanoseconds (63 bits)."""


def parse(text: str | bytes) -> Any:
    """Parse JSON in UTF-8. Raises ValueError.

    Refuses input that JSON parsers treat differently or crash on: duplicate keys, NaN and
    Infinity, deep nesting.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # Brackets in strings count, too, but counting is faster than walking every document.
    if text.count("[") + text.count("{") > _MAX_DEPTH:
        _check_depth(document)
    return document


def record_of(kind: type[_Record], document: Any, **known: object) -> _Record:
    """Return a NamedTuple with the fields of a JSON object, checked for their types, and `known`.

    Integers must be in `VALID_NUMBERS`, strings must be valid as paths. Raises ValueError.
    """
    if not isinstance(document, dict):
        raise ValueError("it is not an object")
    fields = _fields(cast(Hashable, kind))
    for name, value in document.items():
        if name not in fields or name in known:
            raise ValueError(f"it has an unknown field {name!a:.40}")
        if not has_type(value, fields[name]):
            raise ValueError(f"its {name} is {value!a:.40}")
    try:
        return kind(**document, **known)
    except TypeError as error:
        raise ValueError("it lacks a field") from error


def has_type(value: object, kind: Any) -> bool:
    """Return whether a JSON value has a type: `int`, `str`, `bool`, `None`, `Digest`, `Any`, and
    lists, dictionaries and unions of these."""
    if kind is int:
        return type(value) is int and value in VALID_NUMBERS
    if kind is str:
        return isinstance(value, str) and _is_text(value)
    if kind is Digest:
        return isinstance(value, str) and is_digest(value)
    if kind is Any:
        return True
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(has_type(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            has_type(item, arguments[1]) for item in value.values()
        )
    if origin in (Union, types.UnionType):
        return any(has_type(value, choice) for choice in arguments)
    return isinstance(value, kind)


@cache
def _fields(kind: Hashable) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key occurs twice")
    return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        if not inner:
            return
        level = inner
    raise ValueError("it is nested too deeply")
