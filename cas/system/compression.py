"""Compressed files: how the name of one ends says how it is compressed."""

from __future__ import annotations

import contextlib
import importlib
from functools import cache
from typing import IO, Any

from cas.errors import CasError, InputRefused
from cas.system.text import quoted

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
"""How names of archives end."""
_LEVEL = 1
"""Of single contents: 3 takes 1.5 times as long, and makes a tenth less of 1.3 GB of packages."""


class NoZstd(CasError):
    """zstd is in the standard library from Python 3.14 on; before that it is an extra."""

    def __init__(self) -> None:
        super().__init__(
            "this Python has no zstd",
            hint="install the extra that brings it: pip install 'sysroot-cas[zstd]'",
        )


class Unreadable(Exception):
    """What was compressed cannot be read, is cut or changed; the text says how."""


class Decompressed:
    """Reads what the open file `raw` (borrowed), with the name `path`, holds.

    Raises NoZstd, InputRefused (no name of an archive).
    """

    def __init__(self, raw: IO[bytes], path: bytes) -> None:
        self._damage: tuple[type[Exception], ...] = (EOFError, OSError)
        self._file: Any = raw
        kind = _compression_of(path)
        if kind == "gzip":
            import gzip
            import zlib

            self._damage += (zlib.error,)
            self._file = gzip.GzipFile(fileobj=raw, mode="rb")
        elif kind == "zstd":
            zstd = _zstd()
            self._damage += (zstd.ZstdError,)
            self._file = zstd.open(raw, "rb")

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end. Raises Unreadable."""
        try:
            data: bytes = self._file.read(size)
        except self._damage as error:
            why = error.strerror if isinstance(error, OSError) else None
            raise Unreadable(why or str(error)) from error
        return data


def compressing(raw: IO[bytes], path: bytes) -> contextlib.AbstractContextManager[Any]:
    """Return a file whose content goes to `raw` (borrowed), compressed as the name `path` says.

    Raises NoZstd, InputRefused (no name of an archive).
    """
    kind = _compression_of(path)
    if kind == "gzip":
        import gzip

        # Without name and time: equal contents, equal files.
        return gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)
    if kind == "zstd":
        opened: contextlib.AbstractContextManager[Any] = _zstd().open(raw, "wb")
        return opened
    return contextlib.nullcontext(raw)


def compress(data: bytes) -> bytes:
    """Return data as one frame of zstd. Raises NoZstd."""
    compressed: bytes = _zstd().compress(data, _LEVEL)
    return compressed


def decompress(data: bytes, at_most: int) -> bytes:
    """Return what one frame of zstd holds, which must be no more than `at_most` bytes.

    Raises Unreadable if it is more, or anything but that; NoZstd.
    """
    zstd = _zstd()
    decompressor = zstd.ZstdDecompressor()
    try:
        unpacked: bytes = decompressor.decompress(data, at_most + 1)
    except zstd.ZstdError as error:
        raise Unreadable(str(error)) from error
    if len(unpacked) > at_most or not decompressor.eof or decompressor.unused_data:
        raise Unreadable("it is larger than it says, or cut")
    return unpacked


def is_archive(path: bytes) -> bool:
    """Tell whether a name ends like that of an archive."""
    return path.endswith(tuple(map(str.encode, SUFFIXES)))


def _compression_of(path: bytes) -> str | None:
    if not is_archive(path):
        raise InputRefused(
            f"{quoted(path)} is no name of an archive",
            hint=f"end it in one of {', '.join(SUFFIXES)}, which says how it is compressed",
        )
    if path.endswith(b".zst"):
        return "zstd"
    return None if path.endswith(b".tar") else "gzip"


@cache
def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise NoZstd
