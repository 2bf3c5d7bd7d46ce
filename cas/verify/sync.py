"""Making sure that what was put survives a power failure."""

from __future__ import annotations

import os
import subprocess

from cas.disk.boot import boot_id
from cas.errors import CasError
from cas.index.parts import StoreParts
from cas.system.progress import Progress
from cas.system.text import quoted

_BATCH = 1000
"""How many records are marked under one lock."""
_SIGN_OF_LIFE_S = 0.2


def sync(storage: StoreParts, progress: Progress) -> int:
    """Write all data of a store to the disk, and mark the artifacts that were put before as safe.

    Returns how many were marked. One call covers them all, by syncfs(2), which tells of errors
    that happened before, too (Linux 5.8). `progress` is told now and then that it lasts. Raises
    CasError, StoreDamaged.
    """
    with storage.index.read() as reader:
        records = reader.records()
    this_boot = boot_id()
    found = (record.artifact() for record in records)
    unsafe = [artifact for artifact in found if artifact.boot_id == this_boot]
    failure = _write_all(storage.path, progress)
    if failure is not None:
        raise CasError(
            f"cannot write the store {quoted(storage.path)} to the disk: {failure}",
            hint="the disk may be failing: look at the kernel's messages",
        )
    for start in range(0, len(unsafe), _BATCH):
        with storage.index.write() as writer:
            for artifact in unsafe[start : start + _BATCH]:
                if writer.get(artifact.signature) == artifact:
                    writer.put(artifact._replace(boot_id=None))
    return len(unsafe)


def _write_all(store: bytes, progress: Progress) -> str | None:
    """Write a store's file system to the disk; return why not, if it cannot be."""
    command = ["sync", "--file-system", os.fsdecode(store)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while True:
            try:
                _, errors = process.communicate(timeout=_SIGN_OF_LIFE_S)
            except subprocess.TimeoutExpired:
                progress.alive()
            else:
                return errors.strip() if process.returncode else None
