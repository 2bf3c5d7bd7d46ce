"""Forwards signals to a command while waiting for it to end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TextIO

SIGNAL_EXIT_BASE = 128
"""Added to a signal's number to give the exit code, as shells do."""
FORWARDED_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_INTERRUPTING_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_BLOCKED_SIGNALS = (*FORWARDED_SIGNALS, signal.SIGCHLD)
_POLL_S = 0.1

SignalMask = set[signal.Signals | int]


class Interrupted(Exception):
    """Signal `number` arrived before the command was started."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class BlockedSignals:
    """Blocks, for a `with` block, the signals that `supervise` waits for; yields the old mask."""

    def __enter__(self) -> SignalMask:
        self._mask: SignalMask = set(signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_SIGNALS))
        return self._mask

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def supervise(child: int, forward_to: int, *, reap_all: bool = False) -> int:
    """Wait for a child process, forwarding signals meanwhile; return its exit code.

    The signals must be blocked. With `reap_all`, other children are reaped too.
    """
    while True:
        received = signal.sigwaitinfo(_BLOCKED_SIGNALS)
        if received.si_signo != signal.SIGCHLD:
            # A terminal signals the whole foreground process group, so the command has that signal
            # already. SIGHUP is the exception: after a hangup the kernel sends it to the session's
            # leader, which may be this process, and to the foreground group, which may be a job
            # that the command started.
            from_process = received.si_code <= 0  # SI_USER, SI_QUEUE, …: sigaction(2)
            if from_process or received.si_signo == signal.SIGHUP:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(forward_to, received.si_signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1 if reap_all else child, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                return exit_code_of(status)
            if pid == 0:
                break


def exit_code_of(status: int) -> int:
    """Return a shell's exit code for a wait status: 128 and the signal's number if killed."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else SIGNAL_EXIT_BASE - code


def read_line_unless_interrupted(stream: TextIO) -> str:
    """Return the next line of a pipe, or "" at its end. Raises Interrupted."""
    while not select.select([stream], [], [], _POLL_S)[0]:
        received = signal.sigtimedwait(_INTERRUPTING_SIGNALS, 0)
        if received is not None:
            raise Interrupted(received.si_signo)
    return stream.readline()


def restore_signals(mask: SignalMask) -> None:
    """Give this process, which is about to execute a command, the default handlers and `mask`."""
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    # execve(2) resets handlers as well, but a pending signal would run one before that.
    for number in FORWARDED_SIGNALS:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
