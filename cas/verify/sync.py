"""Writes all stored data to the disk, to survive a power failure."""

from __future__ import annotations

import os
import subprocess

from cas.disk.boot import boot_id
from cas.errors import CasError
from cas.index.parts import StoreParts
from cas.system.progress import Progress
from cas.system.text import quoted

_BATCH_RECORDS = 1000
"""Records marked under one lock."""
_PROGRESS_S = 0.2
"""Progress is reported at this interval."""


def sync(storage: StoreParts, progress: Progress) -> int:
    """Write all data of a store to the disk, and mark its artifacts as safe.

    Returns the number of newly marked artifacts. One syncfs(2) covers all of them, and reports
    earlier write errors, too (Linux 5.8). `progress` is called as alive. Raises CasError,
    StoreDamaged.
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
            hint="the disk may be failing: check the kernel's messages (`dmesg`)",
        )
    for start in range(0, len(unsafe), _BATCH_RECORDS):
        with storage.index.write() as writer:
            for artifact in unsafe[start : start + _BATCH_RECORDS]:
                if writer.get(artifact.signature) == artifact:
                    writer.put(artifact._replace(boot_id=None))
    return len(unsafe)


def _write_all(store: bytes, progress: Progress) -> str | None:
    """Write the file system of a store to the disk; return an error message, or None."""
    command = ["sync", "--file-system", os.fsdecode(store)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while True:
            try:
                _, errors = process.communicate(timeout=_PROGRESS_S)
            except subprocess.TimeoutExpired:
                progress.alive()
            else:
                return errors.strip() if process.returncode else None
