"""Tar archives that may be anybody's, read member by member and never unpacked."""

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

ENCODING, ERRORS = "utf-8", "surrogateescape"  # a name is any bytes, as in a file system
_HEADERS = 1 << 18
"""How many bytes of headers one member may have: they are kept in memory."""
_LONGEST_HEADER = 1 << 15
"""The same of one that only extends the next, for whose parts `tarfile` takes time by the square
(CVE-2024-6232)."""
_EXTENDING = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_AFTER_THE_END = 64  # MiB, since those who write tapes fill them up
_CONFUSED = (tarfile.TarError, Unreadable, ValueError, ArithmeticError, LookupError, RecursionError)
"""What `tarfile` raises where an archive makes no sense."""


class ArchiveRefused(InputRefused):
    """An archive is damaged, or holds what cannot be stored."""

    def __init__(self, archive: bytes, what: str, hint: str | None = None) -> None:
        super().__init__(f"{quoted(archive)} {what}; nothing of it was stored", hint=hint)


_AGAIN = "make the archive, or get it, again"


class MemberStream:
    """The content of a member, to be read before the next one is asked for."""

    def __init__(self, archive: bytes, file: IO[bytes]) -> None:
        self._archive = archive
        self._file = file

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end. Raises ArchiveRefused, OSError."""
        with _as_archive_error(self._archive):
            return self._file.read(size)


def members(path: bytes) -> Iterator[tuple[tarfile.TarInfo, MemberStream | None]]:
    """Yield each member of the archive at `path`, a regular file's with its content.

    What members say of themselves is not checked. When there are no more, the archive was whole.
    Raises ArchiveRefused, NoZstd, InputRefused, OSError.
    """
    with _opened(path) as raw, _as_archive_error(path):
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
                archive.members = []  # it would keep all, to seek among them
                _refuse_misread(member)
                content = (
                    MemberStream(path, archive.extractfile(member)) if member.isreg() else None
                )
                stream.left += member.size
                yield member, content
                stream.left = _HEADERS
        except _Ended:
            stream.drain()
        else:
            raise ArchiveRefused(path, "ends too early", _AGAIN)


def _opened(path: bytes) -> IO[bytes]:
    try:
        return open(open_file(os.path.realpath(path)), "rb")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            what = f"cannot be read: {error.strerror}"
            raise ArchiveRefused(path, what, hint_for(error)) from error
        raise ArchiveRefused(path, f"cannot be read: {error}") from error


class _Ended(Exception):
    """The mark of an archive's end was read."""


_MAGIC, _PREFIX, _USTAR = slice(257, 263), slice(345, 500), b"ustar\0"


def _refuse_misread(member: tarfile.TarInfo) -> None:
    """Refuse a member that `tarfile` reads in another way than tar(1). Raises ReadError."""
    size = member.pax_headers.get("size", "0")
    name = quoted(member.name)
    if not (size.isascii() and size.isdigit()):
        raise tarfile.ReadError(f"the size of {name} is {size!r}")
    if "size" in member.pax_headers and any(k.startswith("GNU.sparse") for k in member.pax_headers):
        raise tarfile.ReadError(f"{name} has two sizes (pack sparse files with --format=gnu)")
    if member.isreg() and member.pax_headers.get("path", member.name).endswith("/"):
        raise tarfile.ReadError(f"{name} is a file and has the name of a directory")


class _Member(tarfile.TarInfo):
    """A header, without which `tarfile` takes one that makes no sense for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header. Raises ReadError, _Ended."""
        return cls._checked(super().frombuf, buf, encoding, errors)

    @classmethod
    def _frombuf(cls, buf: bytes, encoding: str, errors: str, **options: bool) -> Self:
        """Do the same, in Pythons with the mends of 2025, whose `frombuf` is not used inside."""
        inner = super()._frombuf  # type: ignore[misc]
        return cls._checked(partial(inner, **options), buf, encoding, errors)

    @classmethod
    def _checked(
        cls, read: Callable[..., Self], buf: bytes | bytearray, encoding: str, errors: str
    ) -> Self:
        if len(buf) == tarfile.BLOCKSIZE and not any(buf):
            raise _Ended
        try:
            member = read(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} where a header should be") from error
        if member.size < 0:
            raise tarfile.ReadError("the size of a member is negative")
        if member.type in _EXTENDING and member.size > _LONGEST_HEADER:
            raise tarfile.ReadError("a header is absurdly large")
        if buf[_MAGIC] != _USTAR and member.type not in tarfile.GNU_TYPES:
            # Only POSIX has the beginning of a name there; GNU tar has times.
            prefix = bytes(buf[_PREFIX]).split(b"\0")[0].decode(encoding, errors)
            member.name = member.name.removeprefix(f"{prefix}/")
        return member


class _Metered:
    """Reads a stream, but no more than is `left`, which whoever knows how much may come raises."""

    def __init__(self, stream: Decompressed) -> None:
        self._stream = stream
        self.left = _HEADERS

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end. Raises ReadError, Unreadable."""
        data = self._stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.ReadError("a header is absurdly large")
        return data

    def drain(self) -> None:
        """Read to the end, where a stream that was cut shows it. Raises ReadError, Unreadable."""
        for _ in range(_AFTER_THE_END):
            if not self._stream.read(1 << 20):
                return
        raise tarfile.ReadError("it goes on long after its end")


@contextlib.contextmanager
def _as_archive_error(path: bytes) -> Iterator[None]:
    try:
        yield
    except _CONFUSED as error:
        raise ArchiveRefused(path, f"is damaged, or no tar archive: {error}", _AGAIN) from error
