"""What did a command really use of its sysroots?

    with mounter.Tracer(plans) as tracer:
        code = mounter.run_plans(["make"], plans, tracer=tracer)
        for used in tracer.used(plan):
            print(used.id, len(used.opened))

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
from cas.system.directories import is_below, open_directory
from mounter.plan import Plan, TreeContent, read_manifest
from mounter.trace.inotify import Watcher
from mounter.trace.opened_files import ArtifactUse, artifact_uses

_LIMITS = {
    errno.EMFILE: "fs.inotify.max_user_instances",
    errno.ENOSPC: "fs.inotify.max_user_watches",
}


class TraceRefused(CasError):
    """The kernel does not tell what is opened; the command has not been begun."""


class Tracer(Closeable):
    """Sees which files a command opens in the sysroots of some plans.

    It is for one command, and to be closed. `covered` are paths at which the command sees
    another directory; in a sysroot, that hides the files of artifacts. Raises TraceRefused,
    StoreDamaged, OSError.
    """

    def __init__(self, plans: Sequence[Plan], covered: Sequence[bytes] = ()) -> None:
        self._plans = tuple(plans)
        self._contents = [_content(plan) for plan in plans]
        self._covered = tuple(covered)
        self._whole = not any(
            _is_new(target, plan, content)
            for plan, content in zip(self._plans, self._contents, strict=True)
            for target in self._covered
        )
        try:
            self._watcher = Watcher()
        except OSError as error:
            raise _refusal(error) from error

    @property
    def complete(self) -> bool:
        """Whether nothing was lost. If not, what was not seen may have been used.

        It is not from the beginning where a bind mount makes a new path in a sysroot that cannot be
        written: the directory that holds it is replaced, and what is in it cannot be watched.
        """
        return self._whole and self._watcher.whole

    def watch(self, root: bytes) -> None:
        """Begin to see what is opened, in the file system whose root directory is at `root`.

        What is in a directory that is not watched is not watched either, such as in a bind mount.
        What is opened before `reading` is kept by the kernel. Raises TraceRefused.
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
        """Take note, while a `with` block runs, of what is opened. Starts a thread."""
        return self._watcher.reading()

    def used(self, plan: Plan) -> list[ArtifactUse]:
        """Return what was used of each artifact of one of the plans, lowest first."""
        number = self._plans.index(plan)
        found = {path for key, path in self._watcher.opened() if key == number}
        ids = [artifact.id for artifact in plan.artifacts]
        return artifact_uses(ids, self._contents[number], found, plan.target)

    def close(self) -> None:
        """See no more."""
        self._watcher.close()


def _content(plan: Plan) -> TreeContent:
    """Return what will be at a plan's target, each path with the number of its artifact."""
    return union(read_manifest(plan.store, artifact.tree) for artifact in plan.artifacts)


def _is_new(path: bytes, plan: Plan, content: TreeContent) -> bool:
    """Tell whether to have something mounted at a path makes it replace a part of a sysroot."""
    if plan.writable or not is_below(path, plan.target):
        return False
    node, _ = content.get(path[len(plan.target) + 1 :], (b"", 0))
    return node != DIRECTORY


def _refusal(error: OSError) -> TraceRefused:
    limit = _LIMITS.get(error.errno or 0)
    if limit is None:
        why, hint = f"{error.strerror}", hint_for(error)
    else:
        why = f"this user watches as much as {limit} allows"
        hint = f"let it be more (`sysctl {limit}`), or trace fewer commands at once"
    return TraceRefused(f"what the command opens cannot be seen: {why}", hint=hint)
