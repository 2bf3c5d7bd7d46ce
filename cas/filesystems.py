"""Which file systems a store can be on: those that one machine has for itself."""

from __future__ import annotations

import os
import re

from cas.errors import InputRefused
from cas.quoting import quoted

_SHARED_BY_MACHINES = re.compile(
    "afs|beegfs|ceph|cifs|coda|gfs2|gpfs|lustre|ncpfs|nfs4?|ocfs2|orangefs|smb3|smbfs"
    r"|fuse\.(ceph|ceph-fuse|gcsfuse|glusterfs|juicefs|mfs|rclone|s3fs|sshfs)"
)
"""As proc(5) calls them in mountinfo."""


def refuse_network(path: bytes) -> None:
    """Refuse a place for a store that other machines may use at the same time.

    Locks, boots and the memory that LMDB maps (mmap(2)) are those of one kernel. A place that is
    not there yet is one of its parent. Raises InputRefused, OSError.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    kind = _file_system(os.stat(path).st_dev)
    if kind is not None and _SHARED_BY_MACHINES.fullmatch(kind):
        raise InputRefused(
            f"{quoted(path)} is on a network file system ({kind}), where no store can be",
            hint="give a directory on a disk of this machine: `--store`, or $CAS_STORE",
        )


def _file_system(device: int) -> str | None:
    """Return the kind of a mounted file system without a disk; None if it has one."""
    if os.major(device) != 0:
        return None
    number = f"0:{os.minor(device)}"
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        for line in file:
            fields, _, more = line.partition(" - ")
            if fields.split(" ")[2] == number:
                return more.split(" ")[0]
    return None
