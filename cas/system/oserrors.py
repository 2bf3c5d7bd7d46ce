"""Complete paths in OSErrors."""

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
    """Complete the path of an error with that of a directory, given by its path or descriptor.

    Python puts the argument of the system call into the error: a relative path, a descriptor, or
    nothing. Without a path, `name` is used. An absolute path is kept.
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
    """Call `add_path` on an OSError of a `with` block that works in one directory."""
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
    """Complete the paths in OSErrors of a method that works below `self.fd`."""

    @functools.wraps(method)
    def named(self: _Self, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with adding_path(self.fd):
            return method(self, *args, **kwargs)

    return named
