"""A command in a user, mount and PID namespace of its own.

Three processes stand between the caller and the command. The *keeper*, forked by the caller,
leaves the caller's namespaces and mounts. It forks the *init*, process 1 of the PID namespace,
which forks the command and collects orphans. Each dies with its parent, and with process 1 the
kernel ends everything in its namespace; so nothing outlives the command, or the caller.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from cas.errors import CasError
from cas.quoting import quoted
from mounter import syscalls
from mounter.overlay import make_overlay
from mounter.plan import Plan, StrategyRefused

NOT_EXECUTABLE = 126
NOT_FOUND = 127
_SIGNAL = 128  # added to the number of a signal, as shells do

_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_BLOCKED = (*_FORWARDED, signal.SIGCHLD)


class NamespaceRefused(Exception):
    """The kernel gives no namespaces here; nothing has been done. The text says why."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What is to be at a plan's target: its overlay, or the directory `source`, read-only."""

    plan: Plan
    source: bytes | None = None


def run_sandboxed(command: Sequence[bytes], sysroots: Sequence[Placed]) -> int:
    """Run a command with `sysroots` mounted where nobody else sees them; return its exit code.

    The code is that of a shell: 128 and the signal's number if a signal ended the command, 126
    if it cannot be executed, 127 if it is not found. Signals that are sent to this process
    reach the command. Forks, so best called from a process with one thread.

    Raises NamespaceRefused, StrategyRefused (before the command was begun), CasError, OSError.
    """
    with _BlockedSignals() as mask:
        status, status_end = os.pipe()
        go, go_end = os.pipe()
        caller = os.getpid()
        keeper = _fork()
        if keeper == 0:
            os.close(status)
            os.close(go_end)
            _child(lambda: _keep(command, sysroots, mask, caller, go, status_end), status_end)
        os.close(status_end)
        os.close(go)
        with open(status) as reports, open(go_end, "wb", buffering=0) as permission:
            try:
                init = _introduce(keeper, reports.readline, permission.write)
            except BaseException:
                os.kill(keeper, signal.SIGKILL)
                os.waitpid(keeper, 0)
                raise
            return supervise(keeper, forward_to=init)


def run_plainly(command: Sequence[bytes]) -> int:
    """Run a command without namespaces; otherwise like `run_sandboxed`."""
    with _BlockedSignals() as mask:
        caller = os.getpid()
        child = _fork()
        if child == 0:
            _child(lambda: _execute(command, mask, caller), -1)
        return supervise(child, forward_to=child)


def supervise(child: int, forward_to: int, *, reap_all: bool = False) -> int:
    """Wait for a child; pass on the signals that somebody sends meanwhile; return its code.

    Signals that a terminal sends are not passed on: they reach the whole process group anyhow.
    The signals must be blocked. With `reap_all`, other children are collected too.
    """
    while True:
        received = signal.sigwaitinfo(_BLOCKED)
        if received.si_signo != signal.SIGCHLD:
            if received.si_code <= 0:  # SI_USER and its like, sigaction(2)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(forward_to, received.si_signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1 if reap_all else child, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                return _exit_code(status)
            if pid == 0:
                break


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SIGNAL - code


class _BlockedSignals:
    """Blocks the signals that `supervise` waits for; gives the mask from before."""

    def __enter__(self) -> set[signal.Signals | int]:
        self._mask: set[signal.Signals | int] = set(
            signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        )
        return self._mask

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def _fork() -> int:
    """fork(2), with nothing buffered that both processes would write."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return os.fork()


def _child(work: Callable[[], int], status_end: int) -> NoReturn:
    """Do the work of a forked child, which must never return into its parent's code."""
    code = 1
    try:
        code = work()
    except NamespaceRefused as error:
        _report(status_end, "namespace", str(error))
    except StrategyRefused as error:
        _report(status_end, "strategy", str(error))
    except (CasError, OSError) as error:
        _report(status_end, "error", str(error))
    finally:
        sys.stderr.flush()
        os._exit(code)


def _report(status_end: int, key: str, value: str | int) -> None:
    os.write(status_end, json.dumps([key, value]).encode() + b"\n")


def _introduce(
    keeper: int, next_report: Callable[[], str], permit: Callable[[bytes], object]
) -> int:
    """Do the caller's part in setting up; return the process id of the init."""
    while line := next_report():
        key, value = json.loads(line)
        if key == "unshared":
            _map_ids(keeper)
            permit(b"x")
        elif key == "init":
            return int(value)
        elif key == "namespace":
            raise NamespaceRefused(value)
        elif key == "strategy":
            raise StrategyRefused(value)
        else:
            raise CasError(f"cannot set up the sandbox: {value}")
    raise CasError("cannot set up the sandbox: its process died")


def _map_ids(keeper: int) -> None:
    """Give the keeper's user namespace the ids of this one: all for root, else one's own.

    Whoever may not set gids at will must first give up setgroups(2) (user_namespaces(7)).
    """
    try:
        for kind, own in (("uid", os.geteuid()), ("gid", os.getegid())):
            if os.geteuid() == 0:
                with open(f"/proc/self/{kind}_map") as file:
                    ranges = [line.split() for line in file]
                lines = [f"{inside} {inside} {count}\n" for inside, _, count in ranges]
            else:
                lines = [f"{own} {own} 1\n"]
                with open(f"/proc/{keeper}/setgroups", "w") as file:
                    file.write("deny")
            with open(f"/proc/{keeper}/{kind}_map", "w") as file:
                file.write("".join(lines))
    except OSError as error:
        raise NamespaceRefused(f"cannot map ids into a user namespace: {error}") from error


def _keep(
    command: Sequence[bytes],
    sysroots: Sequence[Placed],
    mask: set[signal.Signals | int],
    caller: int,
    go: int,
    status_end: int,
) -> int:
    """Be the keeper: leave the caller's namespaces, mount, and wait for the init."""
    _die_with(caller)
    here = None
    with contextlib.suppress(FileNotFoundError):
        here = os.getcwdb()
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
    except OSError as error:
        raise NamespaceRefused(f"the kernel gives no namespaces here ({error})") from error
    _report(status_end, "unshared", 0)
    if not os.read(go, 1):
        return 1
    # Mounts made here must not be seen outside; those made outside may be seen here.
    syscalls.mount(None, b"/", None, syscalls.MS_SLAVE | syscalls.MS_REC)
    for placed in sysroots:
        _attach(placed)
    if here is not None:
        with contextlib.suppress(FileNotFoundError):
            os.chdir(here)  # which may be below a mount point now, or hidden by it
    init = os.fork()
    if init == 0:
        _child(lambda: _init(command, mask, go, status_end), status_end)
    _report(status_end, "init", init)
    os.close(status_end)
    return _exit_code(os.waitpid(init, 0)[1])


def _attach(placed: Placed) -> None:
    target = placed.plan.target
    if placed.source is None:
        made = make_overlay(placed.plan)
    else:
        made = syscalls.open_tree(placed.source)
        syscalls.mount_setattr(
            made,
            syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV,
        )
    directory = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.move_mount(made, directory, target)
    os.close(directory)
    os.close(made)


def _init(
    command: Sequence[bytes], mask: set[signal.Signals | int], go: int, status_end: int
) -> int:
    """Be process 1 of the PID namespace: start the command and collect what it leaves."""
    syscalls.die_with_parent(signal.SIGKILL)
    os.close(status_end)
    os.set_blocking(go, False)
    with contextlib.suppress(BlockingIOError):
        if not os.read(go, 1):
            return 1  # the caller died before this process was bound to it
    with contextlib.suppress(PermissionError):  # where parts of /proc are hidden, as in containers
        flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
        syscalls.mount(b"proc", b"/proc", b"proc", flags)  # equal to the MS_ flags of these names
    child = os.fork()
    if child == 0:
        _child(lambda: _execute(command, mask, os.getppid()), -1)
    return supervise(child, forward_to=child, reap_all=True)


def _execute(command: Sequence[bytes], mask: set[signal.Signals | int], parent: int) -> int:
    """Become the command, with signals as they were before; return a code if that fails."""
    _die_with(parent)
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        os.execvp(command[0], list(command))
    except (FileNotFoundError, NotADirectoryError):
        print(f"cas: {quoted(command[0])}: command not found", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"cas: cannot execute {quoted(command[0])}: {error.strerror}", file=sys.stderr)
        return NOT_EXECUTABLE


def _die_with(parent: int) -> None:
    syscalls.die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before this process was bound to it
