"""Network file systems, on which a store does not work."""

from __future__ import annotations

import os
import re

from cas.errors import InputRefused
from cas.system.mountinfo import diskless_file_system
from cas.system.text import quoted

_SHARED_BY_MACHINES = re.compile(
    "afs|beegfs|ceph|cifs|coda|gfs2|gpfs|lustre|ncpfs|nfs4?|ocfs2|orangefs|smb3|smbfs"
    r"|fuse\.(ceph|ceph-fuse|gcsfuse|glusterfs|juicefs|mfs|rclone|s3fs|sshfs)"
)
"""Names of file system types in mountinfo (proc(5))."""


def refuse_network(path: bytes) -> None:
    """Refuse a store on a file system that other machines may use at the same time.

    Locks, boot IDs and the memory map of LMDB work within one kernel only. A missing path is judged
    by its parent. Raises InputRefused, OSError.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    kind = diskless_file_system(os.stat(path).st_dev)
    if kind is not None and _SHARED_BY_MACHINES.fullmatch(kind):
        raise InputRefused(
            f"{quoted(path)} is on a network file system ({kind}), which cannot hold a store",
            hint="choose a directory on a local disk: `--store`, or $CAS_STORE",
        )
