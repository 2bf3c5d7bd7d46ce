"""Files and JSON that may be anybody's: read so that nothing in them leads anywhere else."""

from __future__ import annotations

import errno
import json
import os
import stat
import types
import zlib
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from cas.locating import located
from cas.manifest import Digest, is_digest

_Record = TypeVar("_Record")
_DEEPEST = 50
_LARGEST = 1 << 30  # bytes; what is larger is no manifest and no record
NUMBERS = range(1 << 63)
"""What a file system or a clock can give."""


def open_file(path: bytes, dir_fd: int | None = None) -> int:
    """Open a regular file to read it: without waiting, and not through a link at its end.

    Raises OSError, and ValueError if it is something else.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with located(b"" if dir_fd is None else dir_fd):
            fd = os.open(path, flags, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError("it is no regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("it is no regular file")
    return fd


def read_file(path: bytes, dir_fd: int | None = None) -> bytes:
    """Read a regular file; see `open_file`. Raises ValueError too if it is absurdly large."""
    with open(open_file(path, dir_fd), "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > _LARGEST:
            raise ValueError("it is larger than any such file")
        return file.readall()


def seal(content: str | bytes) -> bytes:
    """Return what `read_sealed` takes: a checksum, and the content."""
    data = content.encode() if isinstance(content, str) else content
    return b"%08x\n" % zlib.crc32(data) + data


def unseal(data: bytes) -> bytes:
    """Return the content of what `seal` gave. Raises ValueError if a bit of it has changed."""
    checksum, content = data[:9], data[9:]
    if checksum != seal(content)[:9]:
        raise ValueError("its checksum is not that of its content")
    return content


def read_sealed(path: bytes, dir_fd: int | None = None) -> bytes:
    """Read the content of a sealed file. Raises what `read_file` and `unseal` raise."""
    return unseal(read_file(path, dir_fd))


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
        if not fits(value, fields[name]):
            raise ValueError(f"its {name} is {value!a:.40}")
    try:
        return kind(**document, **known)
    except TypeError as error:
        raise ValueError("it lacks a field") from error


def fits(value: object, kind: Any) -> bool:
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
        return isinstance(value, list) and all(fits(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, arguments[1]) for one in value.values())
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
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
