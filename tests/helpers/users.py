"""Running `cas` as other users, in tests that run as root."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from tests.helpers.support import Cas

PROJECT = Path(__file__).parents[2]


def as_user(cas: Cas, uid: int, *groups: int, umask: str = "077") -> Cas:
    """Return the same command, run by another user in these groups."""
    others = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    setpriv = f'exec setpriv --reuid={uid} --regid={uid} {others} -- "$@"'
    enter = f"cd {shlex.quote(str(cas.directory))}; umask {umask}; {setpriv}"
    script = "; ".join(["set -e", *_opened(cas.directory), enter])
    wrapper = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    return replace(cas, wrapper=wrapper)


def _opened(work: Path) -> list[str]:
    """Make all files of the command reachable for every user, in a private mount namespace.

    If a parent directory is closed to others, as /root is, a tmpfs with only the needed files
    replaces it.
    """
    needed = {Path(os.path.realpath(p)) for p in (PROJECT, sys.prefix, sys.base_prefix, work)}
    closed: dict[Path, list[Path]] = {}
    for path in sorted(needed):
        above = [p for p in reversed(path.parents) if not p.stat().st_mode & 0o001]
        if above:
            closed.setdefault(above[0], []).append(path)
    lines: list[str] = []
    for number, (top, inside) in enumerate(closed.items(), 3):
        at = shlex.quote(str(top))
        lines += [f"exec {number}<{at}", f"mount -t tmpfs -o mode=755 none {at}"]
        for path in inside:
            here = shlex.quote(str(path))
            there = shlex.quote(f"/proc/self/fd/{number}/{path.relative_to(top)}")
            lines += [f"mkdir -p {here}", f"mount --no-canonicalize --bind {there} {here}"]
        lines += [f"exec {number}<&-"]
    return lines
