"""Compression of archives, chosen by the suffix of the name, and of single blobs."""

from __future__ import annotations

import contextlib
import importlib
from functools import cache
from typing import IO, Any

from cas.errors import CasError, InputRefused
from cas.system.text import quoted

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
"""Suffixes of archive names."""
_LEVEL = 1
"""Of `compress`. Level 3 takes 1.5 times as long, and makes 1.3 GB of packages a tenth smaller."""


class NoZstd(CasError):
    """zstd is missing: it is in the standard library since Python 3.14, and an extra before."""

    def __init__(self) -> None:
        super().__init__(
            "this Python has no zstd",
            hint="install the extra: pip install 'sysroot-cas[zstd]'",
        )


class Unreadable(Exception):
    """Compressed data is unreadable, truncated or corrupt; the text says how."""


class Decompressed:
    """The decompressed content of the open file `raw` (borrowed), whose name is `path`.

    Raises NoZstd, InputRefused (not the name of an archive).
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
        """Return up to `size` bytes; no bytes mean the end. Raises Unreadable."""
        try:
            data: bytes = self._file.read(size)
        except self._damage as error:
            why = error.strerror if isinstance(error, OSError) else None
            raise Unreadable(why or str(error)) from error
        return data


def compressing(raw: IO[bytes], path: bytes) -> contextlib.AbstractContextManager[Any]:
    """Return a file that writes to `raw` (borrowed), compressed according to the name `path`.

    Raises NoZstd, InputRefused (not the name of an archive).
    """
    kind = _compression_of(path)
    if kind == "gzip":
        import gzip

        # Without name and time, equal contents give equal files.
        return gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)
    if kind == "zstd":
        opened: contextlib.AbstractContextManager[Any] = _zstd().open(raw, "wb")
        return opened
    return contextlib.nullcontext(raw)


def compress(data: bytes) -> bytes:
    """Return `data` as one zstd frame. Raises NoZstd."""
    compressed: bytes = _zstd().compress(data, _LEVEL)
    return compressed


def decompress(data: bytes, max_bytes: int) -> bytes:
    """Return the content of one zstd frame of at most `max_bytes` decompressed bytes.

    Raises Unreadable if the content is larger, or if `data` is not exactly one frame; NoZstd.
    """
    zstd = _zstd()
    decompressor = zstd.ZstdDecompressor()
    try:
        unpacked: bytes = decompressor.decompress(data, max_bytes + 1)
    except zstd.ZstdError as error:
        raise Unreadable(str(error)) from error
    if len(unpacked) > max_bytes or not decompressor.eof or decompressor.unused_data:
        raise Unreadable("it is larger than declared, or truncated")
    return unpacked


def is_archive(path: bytes) -> bool:
    """Return whether a name has the suffix of an archive."""
    return path.endswith(tuple(map(str.encode, SUFFIXES)))


def _compression_of(path: bytes) -> str | None:
    if not is_archive(path):
        raise InputRefused(
            f"{quoted(path)} is not the name of an archive",
            hint=f"use one of the suffixes {', '.join(SUFFIXES)}",
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
