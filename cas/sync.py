"""Making sure that what was put survives a power failure."""

from __future__ import annotations

import os
import subprocess

from cas.boot import boot_id
from cas.errors import CasError
from cas.quoting import quoted
from cas.storage import Storage

_BATCH = 1000
"""How many records are marked under one lock."""


def sync(storage: Storage) -> int:
    """Write all data of a store to the disk, and mark the artifacts that were put before as safe.

    Returns how many were marked. One call covers them all, by syncfs(2), which tells of errors
    that happened before, too (Linux 5.8). Raises CasError, StoreDamaged.
    """
    with storage.index.read() as reader:
        records = reader.records()
    this_boot = boot_id()
    found = (record.artifact() for record in records)
    unsafe = [artifact for artifact in found if artifact.boot_id == this_boot]
    done = subprocess.run(
        ["sync", "--file-system", os.fsdecode(storage.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CasError(
            f"cannot write the store {quoted(storage.path)} to the disk: {done.stderr.strip()}",
            hint="the disk may be failing: look at the kernel's messages",
        )
    for start in range(0, len(unsafe), _BATCH):
        with storage.index.write() as writer:
            for artifact in unsafe[start : start + _BATCH]:
                if writer.get(artifact.signature) == artifact:
                    writer.put(artifact._replace(boot_id=None))
    return len(unsafe)
