"""Safe reading of untrusted files, and files with a checksum."""

from __future__ import annotations

import errno
import os
import stat
import zlib

from cas.system.oserrors import adding_path

_MAX_BYTES = 1 << 30
"""Manifests and records are smaller."""


def open_file(path: bytes, dir_fd: int | None = None) -> int:
    """Open a regular file for reading, without following a final link or waiting for a FIFO.

    Raises OSError, and ValueError if it is not a regular file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with adding_path(b"" if dir_fd is None else dir_fd):
            fd = os.open(path, flags, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError("it is not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("it is not a regular file")
    return fd


def read_file(path: bytes, dir_fd: int | None = None) -> bytes:
    """Return the content of a regular file. Raises as `open_file`, and ValueError above 1 GiB."""
    with open(open_file(path, dir_fd), "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > _MAX_BYTES:
            raise ValueError("it is larger than 1 GiB")
        return file.readall()


def seal(content: str | bytes) -> bytes:
    """Return the content behind a checksum (CRC-32), for `read_sealed`."""
    data = content.encode() if isinstance(content, str) else content
    return b"%08x\n" % zlib.crc32(data) + data


def unseal(data: bytes) -> bytes:
    """Return the content of sealed data. Raises ValueError if a bit of it has changed."""
    checksum, content = data[:9], data[9:]
    if checksum != seal(content)[:9]:
        raise ValueError("its checksum does not match its content")
    return content


def read_sealed(path: bytes, dir_fd: int | None = None) -> bytes:
    """Return the content of a sealed file. Raises as `read_file` and `unseal`."""
    return unseal(read_file(path, dir_fd))
