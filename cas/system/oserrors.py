"""Making an OSError name a whole path, so that somebody can look at it."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec, Protocol, TypeVar

_Self = TypeVar("_Self", bound="_Open")
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def add_path(error: OSError, directory: int | bytes, name: bytes = b"") -> None:
    """Make an error name a whole path: that of an open directory, and what in it is meant.

    Python names what a system call was given, which may be a path below the directory, a number,
    or nothing; then it is `name`. A path that is whole stays.
    """
    given = error.filename
    below = os.fsencode(given) if isinstance(given, (str, bytes)) else name
    if isinstance(directory, int):
        with contextlib.suppress(OSError):
            directory = os.readlink(b"/proc/self/fd/%d" % directory)
    if not os.path.isabs(below) and isinstance(directory, bytes):
        error.filename = os.fsdecode(os.path.join(directory, below).rstrip(b"/"))


@contextlib.contextmanager
def adding_path(directory: int | bytes) -> Iterator[None]:
    """`add_path` errors of a `with` block that works in one directory."""
    try:
        yield
    except OSError as error:
        add_path(error, directory)
        raise


class _Open(Protocol):
    @property
    def fd(self) -> int:
        """The descriptor of a directory."""


def adding_paths(
    method: Callable[Concatenate[_Self, _Arguments], _Result],
) -> Callable[Concatenate[_Self, _Arguments], _Result]:
    """Let errors of a method name whole paths: most are given to the system as below `self.fd`."""

    @functools.wraps(method)
    def named(self: _Self, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with adding_path(self.fd):
            return method(self, *args, **kwargs)

    return named
