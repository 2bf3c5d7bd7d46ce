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
_DEEPEST = 50
NUMBERS = range(1 << 63)
"""What a file system or a clock can give."""


def parse(text: str | bytes) -> Any:
    """Read JSON, in UTF-8. Raises ValueError.

    Refused is also what readers of JSON differ in, or can be brought down by: a key that is in an
    object twice, what is no number of JSON, deep nesting.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(document)
    return document


def record_of(kind: type[_Record], document: Any, **known: object) -> _Record:
    """Make a record (a NamedTuple) of a JSON object, whose fields have to be of its types, and of
    `known` ones.

    Whole numbers are those that a file system or a clock can give, a text is one that can be a
    path. Raises ValueError.
    """
    if not isinstance(document, dict):
        raise ValueError("it is no object")
    fields = _fields(cast(Hashable, kind))
    for name, value in document.items():
        if name not in fields or name in known:
            raise ValueError(f"it has a field {name!a:.40}")
        if not has_type(value, fields[name]):
            raise ValueError(f"its {name} is {value!a:.40}")
    try:
        return kind(**document, **known)
    except TypeError as error:
        raise ValueError("it lacks a field") from error


def has_type(value: object, kind: Any) -> bool:
    """Tell whether what JSON gave is of a type: one of `int`, `str`, `bool`, `None`, `Digest`,
    lists and dictionaries of such, unions, and `Any`."""
    if kind is int:
        return type(value) is int and value in NUMBERS
    if kind is str:
        return isinstance(value, str) and _is_text(value)
    if kind is Digest:
        return isinstance(value, str) and is_digest(value)
    if kind is Any:
        return True
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(has_type(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            has_type(one, arguments[1]) for one in value.values()
        )
    if origin in (Union, types.UnionType):
        return any(has_type(value, one) for one in arguments)
    return isinstance(value, kind)


@cache
def _fields(kind: Hashable) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is in it twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        if not inner:
            return
        level = inner
    raise ValueError("it is nested too deep")
