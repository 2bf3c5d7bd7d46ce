"""Reads untrusted tar archives, member by member and without extracting them."""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, Self

from cas.errors import InputRefused, hint_for
from cas.system.compression import Decompressed, Unreadable
from cas.system.files import open_file
from cas.system.text import quoted

ENCODING, ERRORS = "utf-8", "surrogateescape"  # names are any bytes, as in a file system
_MAX_HEADERS_BYTES = 1 << 18
"""Limit for all headers of one member, which `tarfile` keeps in memory."""
_MAX_EXTENSION_BYTES = 1 << 15
"""Limit for one extension header, which `tarfile` reads in quadratic time (CVE-2024-6232)."""
_EXTENSION_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_PADDING_MIB = 64
"""After the end of the archive: tape blocks are filled up."""
_TARFILE_ERRORS = (
    tarfile.TarError,
    Unreadable,
    ValueError,
    ArithmeticError,
    LookupError,
    RecursionError,
)
"""The exceptions of `tarfile` for a corrupt archive."""


class ArchiveRefused(InputRefused):
    """An archive is damaged, or contains an entry that cannot be stored."""

    def __init__(self, archive: bytes, problem: str, hint: str | None = None) -> None:
        super().__init__(f"{quoted(archive)} {problem}; nothing was stored", hint=hint)


_DAMAGE_HINT = "create or download the archive again"


class MemberStream:
    """The content of a member; it must be read before the next member."""

    def __init__(self, archive: bytes, file: IO[bytes]) -> None:
        self._archive = archive
        self._file = file

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; no bytes mean the end. Raises ArchiveRefused, OSError."""
        with _as_archive_error(self._archive):
            return self._file.read(size)


def members(path: bytes) -> Iterator[tuple[tarfile.TarInfo, MemberStream | None]]:
    """Yield each member of the archive at `path`, with its content if it is a regular file.

    The fields of members are not checked. If the iteration ends, the archive was complete.
    Raises ArchiveRefused, NoZstd, InputRefused, OSError.
    """
    with _open_archive(path) as raw, _as_archive_error(path):
        stream = _Metered(Decompressed(raw, path))
        try:
            archive: Any = tarfile.TarFile.open(
                fileobj=stream,  # type: ignore[call-overload]
                mode="r|",
                tarinfo=_Member,
                encoding=ENCODING,
                errors=ERRORS,
            )
            while member := archive.next():
                archive.members = []  # tarfile would keep all members in memory
                _refuse_misread(member)
                content = (
                    MemberStream(path, archive.extractfile(member)) if member.isreg() else None
                )
                stream.left += member.size
                yield member, content
                stream.left = _MAX_HEADERS_BYTES
        except _EndOfArchive:
            stream.drain()
        else:
            raise ArchiveRefused(path, "is truncated", _DAMAGE_HINT)


def _open_archive(path: bytes) -> IO[bytes]:
    try:
        return open(open_file(os.path.realpath(path)), "rb")
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise ArchiveRefused(path, problem, hint_for(error)) from error
    except ValueError as error:
        raise ArchiveRefused(path, f"cannot be read: {error}") from error


class _EndOfArchive(Exception):
    """The end-of-archive mark was read."""


_MAGIC, _PREFIX, _USTAR = slice(257, 263), slice(345, 500), b"ustar\0"


def _refuse_misread(member: tarfile.TarInfo) -> None:
    """Refuse a member that `tarfile` reads differently from tar(1). Raises ReadError."""
    size = member.pax_headers.get("size", "0")
    name = quoted(member.name)
    if not (size.isascii() and size.isdigit()):
        raise tarfile.ReadError(f"the size of {name} is {size!r}")
    if "size" in member.pax_headers and any(k.startswith("GNU.sparse") for k in member.pax_headers):
        raise tarfile.ReadError(f"{name} has two sizes (pack sparse files with --format=gnu)")
    if member.isreg() and member.pax_headers.get("path", member.name).endswith("/"):
        raise tarfile.ReadError(f"{name} is a file with the name of a directory")


class _Member(tarfile.TarInfo):
    """A strict header: `tarfile` alone takes a corrupt header for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header. Raises ReadError, _EndOfArchive."""
        return cls._checked(super().frombuf, buf, encoding, errors)

    @classmethod
    def _frombuf(cls, buf: bytes, encoding: str, errors: str, **options: bool) -> Self:
        """Do the same for Python versions since the fixes of 2025, which do not call `frombuf`."""
        inner = super()._frombuf  # type: ignore[misc]
        return cls._checked(partial(inner, **options), buf, encoding, errors)

    @classmethod
    def _checked(
        cls, read: Callable[..., Self], buf: bytes | bytearray, encoding: str, errors: str
    ) -> Self:
        if len(buf) == tarfile.BLOCKSIZE and not any(buf):
            raise _EndOfArchive
        try:
            member = read(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} instead of a header") from error
        if member.size < 0:
            raise tarfile.ReadError("the size of a member is negative")
        if member.type in _EXTENSION_TYPES and member.size > _MAX_EXTENSION_BYTES:
            raise tarfile.ReadError("a header is too large")
        if buf[_MAGIC] != _USTAR and member.type not in tarfile.GNU_TYPES:
            # Only POSIX has a name prefix there; GNU tar has times.
            prefix = bytes(buf[_PREFIX]).split(b"\0")[0].decode(encoding, errors)
            member.name = member.name.removeprefix(f"{prefix}/")
        return member


class _Metered:
    """Reads a stream up to `left` bytes; `members` raises that by the size of each member."""

    def __init__(self, stream: Decompressed) -> None:
        self._stream = stream
        self.left = _MAX_HEADERS_BYTES

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; no bytes mean the end. Raises ReadError, Unreadable."""
        data = self._stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.ReadError("a header is too large")
        return data

    def drain(self) -> None:
        """Read to the end, which reveals a truncated stream. Raises ReadError, Unreadable."""
        for _ in range(_MAX_PADDING_MIB):
            if not self._stream.read(1 << 20):
                return
        raise tarfile.ReadError("it continues after its end")


@contextlib.contextmanager
def _as_archive_error(path: bytes) -> Iterator[None]:
    try:
        yield
    except _TARFILE_ERRORS as error:
        raise ArchiveRefused(
            path, f"is damaged, or not a tar archive: {error}", _DAMAGE_HINT
        ) from error
