"""A command in namespaces of its own.

Three processes stand between the caller and the command. The *keeper*, forked by the caller,
leaves the caller's namespaces and mounts. It forks the *init*, process 1 of the PID namespace,
which forks the command and collects orphans. Each dies with its parent, and with process 1 the
kernel ends everything in its namespace; so nothing outlives the command, or the caller.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TextIO

from cas.errors import CasError, hint_for
from cas.system.text import quoted
from mounter import syscalls
from mounter.plan import StrategyRefused
from mounter.sandbox.isolation import Sandbox, bring_up_loopback, drop_privileges, map_ids
from mounter.sandbox.rootfs import MountSpec, RootFs, mount_proc

if TYPE_CHECKING:
    from mounter.trace.tracer import Tracer

NOT_EXECUTABLE = 126
NOT_FOUND = 127
SIGNAL_EXIT_BASE = 128  # added to the number of a signal, as shells do

_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_BLOCKED = (*_FORWARDED, signal.SIGCHLD)


class NamespaceRefused(Exception):
    """The kernel gives no namespaces here; nothing has been done. The text says why."""


def run_sandboxed(
    command: Sequence[bytes],
    sysroots: Sequence[MountSpec],
    sandbox: Sandbox,
    tracer: Tracer | None = None,
) -> int:
    """Run a command with `sysroots` mounted where nobody else sees them; return its exit code.

    The code is that of a shell: 128 and the signal's number if a signal ended the command, 126
    if it cannot be executed, 127 if it is not found. Signals that are sent to this process
    reach the command. Forks, so best called from a process with one thread. A `tracer` sees what
    the command opens.

    Raises NamespaceRefused, StrategyRefused (before the command was begun), CasError, OSError.
    """
    with _BlockedSignals() as mask:
        status, status_end = os.pipe()
        go, go_end = os.pipe()
        watched = tracer is not None
        task = _SandboxTask(command, sysroots, sandbox, mask, os.getpid(), go, status_end, watched)
        keeper = _fork()
        if keeper == 0:
            os.close(status)
            os.close(go_end)
            _run_child(lambda: _run_keeper(task), status_end)
        os.close(status_end)
        os.close(go)
        with open(status) as reports, open(go_end, "wb", buffering=0) as permission:
            try:
                init = _set_up(
                    keeper, sandbox, lambda: _next_report(reports), permission.write, tracer
                )
            except BaseException as error:
                if isinstance(error, CasError):
                    permission.close()  # without it, the keeper takes away what it has made
                else:
                    os.kill(keeper, signal.SIGKILL)
                os.waitpid(keeper, 0)
                if isinstance(error, _Interrupted):
                    return SIGNAL_EXIT_BASE + error.number
                raise
            with _reading(tracer):
                return supervise(keeper, forward_to=init)


def run_without_namespaces(
    command: Sequence[bytes], sandbox: Sandbox, tracer: Tracer | None = None
) -> int:
    """Run a command without namespaces; otherwise like `run_sandboxed`."""
    with _BlockedSignals() as mask:
        task = _SandboxTask(command, (), sandbox, mask, os.getpid(), -1, -1)
        if tracer is not None:
            tracer.watch(b"")
        child = _fork()
        if child == 0:
            _run_child(lambda: _execute_without_namespaces(task), -1)
        with _reading(tracer):
            return supervise(child, forward_to=child)


def _reading(tracer: Tracer | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if tracer is None else tracer.reading()


def supervise(child: int, forward_to: int, *, reap_all: bool = False) -> int:
    """Wait for a child; pass on the signals that somebody sends meanwhile; return its code.

    Signals that a terminal sends are not passed on: they reach the whole process group anyhow;
    but for SIGHUP, since when the line is cut it goes to the leader of the session, which may be
    this process, and to the job in the foreground, which may be one that the command has begun.
    The signals must be blocked. With `reap_all`, other children are collected too.
    """
    while True:
        received = signal.sigwaitinfo(_BLOCKED)
        if received.si_signo != signal.SIGCHLD:
            by_a_process = received.si_code <= 0  # SI_USER and its like, sigaction(2)
            if by_a_process or received.si_signo == signal.SIGHUP:
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
    return code if code >= 0 else SIGNAL_EXIT_BASE - code


class _SandboxTask(NamedTuple):
    """What the processes of one sandbox have to know.

    `mask` are the signals that were blocked before. At `go` the caller gives its permissions, at
    `status_end` it hears what has been done. It waits for a second permission if it is `watched`.
    """

    command: Sequence[bytes]
    sysroots: Sequence[MountSpec]
    sandbox: Sandbox
    mask: set[signal.Signals | int]
    caller: int
    go: int
    status_end: int
    watched: bool = False


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


def _run_child(work: Callable[[], int], status_end: int) -> NoReturn:
    """Do the work of a forked child, which must never return into its parent's code."""
    code = 1
    try:
        code = work()
    except NamespaceRefused as error:
        _report(status_end, "namespace", str(error))
    except StrategyRefused as error:
        _report(status_end, "strategy", str(error))
    except CasError as error:
        _report(status_end, "error", error.message, error.hint)
    except OSError as error:
        where = "" if error.filename is None else f": {quoted(error.filename)}"
        _report(status_end, "error", f"{error.strerror or error}{where}", hint_for(error))
    finally:
        sys.stderr.flush()
        os._exit(code)


def _report(status_end: int, key: str, value: str | int, hint: str | None = None) -> None:
    os.write(status_end, json.dumps([key, value, hint]).encode() + b"\n")


class _Interrupted(Exception):
    """A signal came before the command was begun."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _next_report(reports: TextIO) -> str:
    """Wait for a line from the keeper, or for a signal that is to end it. Raises _Interrupted."""
    while not select.select([reports], [], [], 0.1)[0]:
        received = signal.sigtimedwait(_ENDING, 0)
        if received is not None:
            raise _Interrupted(received.si_signo)
    return reports.readline()


def _set_up(
    keeper: int,
    sandbox: Sandbox,
    next_report: Callable[[], str],
    permit: Callable[[bytes], object],
    tracer: Tracer | None,
) -> int:
    """Do the caller's part in setting up; return the process id of the init."""
    while line := next_report():
        key, value, hint = json.loads(line)
        if key == "unshared":
            try:
                map_ids(keeper, map_root=sandbox.map_root)
            except OSError as error:
                why = f"cannot map ids into a user namespace: {error}"
                raise NamespaceRefused(why) from error
            permit(b"x")
        elif key == "mounted" and tracer is not None:
            tracer.watch(b"/proc/%d/root" % keeper)
            permit(b"x")
        elif key == "init":
            return int(value)
        elif key == "namespace":
            raise NamespaceRefused(value)
        elif key == "strategy":
            raise StrategyRefused(value)
        else:
            raise CasError(f"cannot set up the sandbox: {value}", hint=hint)
    raise CasError("cannot set up the sandbox: its process died")


def _run_keeper(task: _SandboxTask) -> int:
    """Be the keeper: leave the caller's namespaces, mount, and wait for the init."""
    _die_with(task.caller)
    try:
        # The PID namespace comes last: its first child is its init, whatever it was forked for.
        syscalls.unshare(task.sandbox.namespaces & ~syscalls.CLONE_NEWPID)
    except OSError as error:
        raise NamespaceRefused(f"the kernel gives no namespaces here ({error})") from error
    _report(task.status_end, "unshared", 0)
    if not os.read(task.go, 1):
        return 1
    root = RootFs()
    try:
        root.assemble(task.sysroots, task.sandbox.binds)
        if task.sandbox.namespaces & syscalls.CLONE_NEWNET:
            bring_up_loopback()
        if task.sandbox.directory is not None:
            os.chdir(task.sandbox.directory)
        if task.watched:
            _report(task.status_end, "mounted", 0)
            if not os.read(task.go, 1):
                return 1
        syscalls.unshare(task.sandbox.namespaces & syscalls.CLONE_NEWPID)
        init = os.fork()
        if init == 0:
            _run_child(lambda: _run_init(task), task.status_end)
        _report(task.status_end, "init", init)
        os.close(task.status_end)
        return _exit_code(os.waitpid(init, 0)[1])
    finally:
        os.chdir("/")
        root.release()


def _run_init(task: _SandboxTask) -> int:
    """Be process 1 of the PID namespace: start the command and collect what it leaves."""
    syscalls.die_with_parent(signal.SIGKILL)
    os.close(task.status_end)
    os.set_blocking(task.go, False)
    with contextlib.suppress(BlockingIOError):
        if not os.read(task.go, 1):
            return 1  # the caller died before this process was bound to it
    if task.sandbox.namespaces & syscalls.CLONE_NEWPID:
        mount_proc()
    me = os.getpid()
    child = os.fork()
    if child == 0:
        _run_child(lambda: _execute(task, me), -1)
    return supervise(child, forward_to=child, reap_all=True)


def _execute_without_namespaces(task: _SandboxTask) -> int:
    if task.sandbox.directory is not None:
        os.chdir(task.sandbox.directory)
    return _execute(task, task.caller)


def _execute(task: _SandboxTask, parent: int) -> int:
    """Become the command, with signals as they were before; return a code if that fails."""
    _die_with(parent)
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    for number in _FORWARDED:
        if callable(signal.getsignal(number)):  # what exec does, but one may be waiting
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, task.mask)
    command, environment = task.command, task.sandbox.environment
    drop_privileges(task.sandbox)
    try:
        if environment is None:
            os.execvp(command[0], list(command))
        else:
            os.execvpe(command[0], list(command), dict(environment))
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
