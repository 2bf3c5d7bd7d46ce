"""Makes tar archives for tests, sound and hostile ones."""

from __future__ import annotations

import importlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

try:
    zstd: Any = importlib.import_module("compression.zstd")
except ImportError:
    zstd = importlib.import_module("backports.zstd")

HASH = "4cf1556a4e3d" * 5 + "abcd"
Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", **fields: Any) -> Member:
    """Return a regular file, or another member with other fields."""
    found = tarfile.TarInfo(name)
    found.size, found.mode = len(content), 0o644
    for field, value in fields.items():
        setattr(found, field, value)
    return found, content


def directory(name: str) -> Member:
    """Return a directory."""
    return member(name, type=tarfile.DIRTYPE, mode=0o755)


def symlink(name: str, target: str) -> Member:
    """Return a symbolic link."""
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> Member:
    """Return a hard link."""
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def archive(members: Iterable[Member], format: int = tarfile.GNU_FORMAT) -> bytes:
    """Return the bytes of a tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as made:
        for info, content in members:
            made.addfile(info, io.BytesIO(content))
    return file.getvalue()


def sstate_name(recipe: str, arch: str = "core2-64", hash: str = HASH, end: str = "tar.zst") -> str:
    """Return the name of an sstate object of a sysroot."""
    task = "populate_sysroot"
    return f"sstate:{recipe}:{arch}-oe-linux:1.2+git:r0:{arch}:14:{hash}_{task}.{end}"


def compressed(data: bytes) -> bytes:
    """Compress as sstate does: in several frames."""
    middle = len(data) // 2
    return bytes(zstd.compress(data[:middle]) + zstd.compress(data[middle:]))


def write_sstate(directory: Path, recipe: str, members: Iterable[Member], **name: str) -> Path:
    """Write an sstate object; return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / sstate_name(recipe, **name)
    path.write_bytes(compressed(archive(members)))
    return path
