"""What can go wrong, as classes; and the one table of exit codes."""

from __future__ import annotations

import enum
import errno
from typing import Any, ClassVar


class ExitCode(enum.IntEnum):
    """Exit codes of every `cas` command but `run`, a contract for scripts."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    NO_SIGNATURE = 3
    CONFLICT = 4
    NO_STRATEGY = 5
    DAMAGED = 6
    IN_USE = 7
    REFUSED = 8


MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILURE: "other failure",
    ExitCode.USAGE: "usage",
    ExitCode.NO_SIGNATURE: "no such signature, or an ambiguous abbreviation",
    ExitCode.CONFLICT: "conflict between artifacts, or with what is stored",
    ExitCode.NO_STRATEGY: "no strategy worked",
    ExitCode.DAMAGED: "store damaged or of a newer format",
    ExitCode.IN_USE: "in use or locked",
    ExitCode.REFUSED: "input refused",
}


class CasError(Exception):
    """An error that a user can cause or meet: a sentence, a way out, and an exit code.

    `message` says what is wrong and with which path or signature; `hint`, where there is one,
    says what to do.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Let other processes raise it: most kinds are made of other arguments than a message."""
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[CasError], args: tuple[object, ...]) -> CasError:
    error = kind.__new__(kind)
    error.args = args
    return error


class InputRefused(CasError):
    """The input is something that this program does not take."""

    exit_code = ExitCode.REFUSED


_HINTS = {
    errno.EACCES: "this user may not do that: change the mode or the owner, or be another user",
    errno.EDQUOT: "the user's quota is used up: make room, `cas gc` in the store",
    errno.EIO: "the disk may be failing: look at the kernel's messages",
    errno.EMFILE: "let the process open more files (`ulimit -n`)",
    errno.ENOENT: "check the path, and what it is relative to",
    errno.ENOMEM: "memory is short, or limited (`ulimit -a`, cgroups): let there be more",
    errno.ENOSPC: "the disk is full: make room, `cas gc` in the store",
    errno.ENOSYS: "this kernel is too old for that; README and docs/design.md say what needs which",
    errno.ENOTDIR: "check the path, and what it is relative to",
    errno.EPERM: "this user may not do that: be another user, or one with more capabilities",
    errno.EROFS: "mount the file system for writing, or use another place",
}


def hint_for(error: OSError) -> str | None:
    """Return what a person may do about a failed system call, if that is known."""
    return _HINTS.get(error.errno or 0)


class InUse(CasError):
    """Something living holds what was to be taken away."""

    exit_code = ExitCode.IN_USE


class StoreDamaged(CasError):
    """What is on disk is not what this program wrote."""

    exit_code = ExitCode.DAMAGED
