"""Traces which artifacts of its sysroots a command uses.

    with mounter.Tracer(plans) as tracer:
        code = mounter.run_plans(["make"], plans, tracer=tracer)
        for use in tracer.used(plan):
            print(use.id, len(use.opened))

Needs the standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

from cas.errors import CasError, hint_for
from cas.model.manifest import DIRECTORY
from cas.model.union import union
from cas.system.closeable import Closeable
from cas.system.directories import open_directory
from cas.system.paths import is_below
from mounter.plan import Plan, TreeContent, read_manifest
from mounter.trace.inotify import Watcher
from mounter.trace.opened_files import ArtifactUse, artifact_uses

_LIMITS = {
    errno.EMFILE: "fs.inotify.max_user_instances",
    errno.ENOSPC: "fs.inotify.max_user_watches",
}


class TraceRefused(CasError):
    """The kernel refuses to watch the sysroots; the command was not started."""


class Tracer(Closeable):
    """Records which files one command opens in the sysroots of some plans; must be closed.

    `covered` are the paths of bind mounts, which hide the files of a sysroot. Raises TraceRefused,
    StoreDamaged, OSError.
    """

    def __init__(self, plans: Sequence[Plan], covered: Sequence[bytes] = ()) -> None:
        self._plans = tuple(plans)
        self._contents = [_content(plan) for plan in plans]
        self._covered = tuple(covered)
        self._watches_all = not any(
            _replaces_directory(target, plan, content)
            for plan, content in zip(self._plans, self._contents, strict=True)
            for target in self._covered
        )
        try:
            self._watcher = Watcher()
        except OSError as error:
            raise _refusal(error) from error

    @property
    def complete(self) -> bool:
        """Whether no event was lost; if not, artifacts may have been used unnoticed.

        False from the start if a bind mount adds a path to a read-only sysroot: the directory above
        is replaced by a tmpfs, and its entries cannot be watched.
        """
        return self._watches_all and self._watcher.complete

    def watch(self, root: bytes) -> None:
        """Start watching, in the file system whose root directory is at `root`.

        Bind mounts are not watched. The kernel queues events until `reading`. Raises TraceRefused.
        """
        for number, plan in enumerate(self._plans):
            directories = (
                path
                for path, (node, _) in self._contents[number].items()
                if node == DIRECTORY and os.path.join(plan.target, path) not in self._covered
            )
            try:
                with open_directory(root + plan.target) as fd:
                    self._watcher.add(number, fd, directories)
            except OSError as error:
                raise _refusal(error) from error

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Record opened files for a `with` block, in a thread."""
        return self._watcher.reading()

    def used(self, plan: Plan) -> list[ArtifactUse]:
        """Return the use of each artifact of one of the plans, lowest first."""
        number = self._plans.index(plan)
        opened = {path for key, path in self._watcher.opened() if key == number}
        ids = [artifact.id for artifact in plan.artifacts]
        return artifact_uses(ids, self._contents[number], opened, plan.target)

    def close(self) -> None:
        """Stop watching."""
        self._watcher.close()


def _content(plan: Plan) -> TreeContent:
    """Return the merged tree of a plan, each path with the number of its artifact."""
    return union(read_manifest(plan.store, artifact.tree) for artifact in plan.artifacts)


def _replaces_directory(path: bytes, plan: Plan, content: TreeContent) -> bool:
    """Return whether a mount at `path` makes the sandbox replace a directory of a sysroot."""
    if plan.writable or not is_below(path, plan.target):
        return False
    node, _ = content.get(path[len(plan.target) + 1 :], (b"", 0))
    return node != DIRECTORY


def _refusal(error: OSError) -> TraceRefused:
    limit = _LIMITS.get(error.errno or 0)
    if limit is None:
        reason, hint = f"{error.strerror}", hint_for(error)
    else:
        reason = f"this user has reached the limit {limit}"
        hint = f"raise it (`sysctl {limit}`), or trace fewer commands at once"
    return TraceRefused(f"cannot trace the command: {reason}", hint=hint)
