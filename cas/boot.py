"""Which boot of the machine this is, since what was written before it may have been lost."""

from __future__ import annotations


def boot_id() -> str:
    """Return the kernel's name for this boot (proc(5), random/boot_id)."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
