"""Errors with their hints, and the table of exit codes."""

from __future__ import annotations

import enum
import errno
from typing import Any, ClassVar


class ExitCode(enum.IntEnum):
    """Exit codes of every `cas` command except `run`, a contract for scripts."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    NO_SIGNATURE = 3
    CONFLICT = 4
    NO_STRATEGY = 5
    DAMAGED = 6
    IN_USE = 7
    REFUSED = 8


EXIT_CODE_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILURE: "other failure",
    ExitCode.USAGE: "usage",
    ExitCode.NO_SIGNATURE: "no such ID, or an ambiguous abbreviation",
    ExitCode.CONFLICT: "conflict between artifacts, or with a stored one",
    ExitCode.NO_STRATEGY: "no strategy worked",
    ExitCode.DAMAGED: "store damaged or of a newer format",
    ExitCode.IN_USE: "in use or locked",
    ExitCode.REFUSED: "input refused",
}


class CasError(Exception):
    """An error that a user can cause or meet, with an exit code.

    `message` is a sentence that says what failed, and names the path or the ID. `hint` says what to
    do about it, or is None.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the error picklable for workers: most subclasses have other arguments."""
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[CasError], args: tuple[object, ...]) -> CasError:
    error = kind.__new__(kind)  # without __init__, which would compose the message again
    error.args = args
    return error


class InputRefused(CasError):
    """The input is not accepted."""

    exit_code = ExitCode.REFUSED


class InUse(CasError):
    """A running process or a mount uses the artifact, target or directory."""

    exit_code = ExitCode.IN_USE


class StoreDamaged(CasError):
    """The files of the store are damaged or missing."""

    exit_code = ExitCode.DAMAGED


_HINTS = {
    errno.EACCES: "change the mode or the owner of the path, or run the command as another user",
    errno.EDQUOT: "the disk quota is used up: free space, for example with `cas gc`",
    errno.EIO: "the disk may be failing: check the kernel's messages (`dmesg`)",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENOENT: "check the path, and the directory that it is relative to",
    errno.ENOMEM: "out of memory: check `ulimit -a` and the cgroup's limit",
    errno.ENOSPC: "the disk is full: free space, for example with `cas gc`",
    errno.ENOSYS: "this kernel is too old: docs/design.md lists the kernel version of each feature",
    errno.ENOTDIR: "check the path, and the directory that it is relative to",
    errno.EPERM: "run the command as another user, or with more capabilities",
    errno.EROFS: "mount the file system read-write, or use another directory",
}


def hint_for(error: OSError) -> str | None:
    """Return advice about a failed system call, or None."""
    return _HINTS.get(error.errno or 0)
