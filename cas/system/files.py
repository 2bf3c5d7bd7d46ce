"""Files and JSON that may be anybody's: read so that nothing in them leads anywhere else."""

from __future__ import annotations

import errno
import os
import stat
import zlib

from cas.system.oserrors import adding_path

_LARGEST = 1 << 30  # bytes; what is larger is no manifest and no record


def open_file(path: bytes, dir_fd: int | None = None) -> int:
    """Open a regular file to read it: without waiting, and not through a link at its end.

    Raises OSError, and ValueError if it is something else.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with adding_path(b"" if dir_fd is None else dir_fd):
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
