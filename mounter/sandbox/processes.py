"""The processes of a sandboxed command.

Three processes are forked. The *keeper*, forked by the caller, enters new namespaces and mounts the
sysroots. It forks the *init*, process 1 of the PID namespace, which forks the command and reaps
orphans. Each dies with its parent, and when process 1 ends, the kernel kills everything in its
namespace; so nothing outlives the command or the caller.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TextIO

from cas.errors import CasError, hint_for
from cas.system.debug_log import debug
from cas.system.text import quoted
from mounter import syscalls
from mounter.plan import StrategyRefused
from mounter.sandbox.isolation import Sandbox
from mounter.sandbox.namespaces import (
    NO_NAMESPACES,
    NamespaceRefused,
    bring_up_loopback,
    drop_privileges,
    map_ids,
    mount_proc,
)
from mounter.sandbox.rootfs import MountSpec, RootFs
from mounter.sandbox.signals import (
    SIGNAL_EXIT_BASE,
    BlockedSignals,
    Interrupted,
    SignalMask,
    exit_code_of,
    read_line_unless_interrupted,
    restore_signals,
    supervise,
)

if TYPE_CHECKING:
    from mounter.trace.tracer import Tracer

NOT_EXECUTABLE = 126
NOT_FOUND = 127
_NO_FD = -1


class _SandboxTask(NamedTuple):
    """Everything that the processes of one sandbox share.

    `mask` is the signal mask to restore for the command. `permission_fd` is where the keeper waits
    for the caller, a second time if the command is `traced`; `report_fd` is where it reports.
    """

    command: Sequence[bytes]
    sysroots: Sequence[MountSpec]
    sandbox: Sandbox
    mask: SignalMask
    caller: int
    permission_fd: int = _NO_FD
    report_fd: int = _NO_FD
    traced: bool = False


def run_sandboxed(
    command: Sequence[bytes],
    sysroots: Sequence[MountSpec],
    sandbox: Sandbox,
    tracer: Tracer | None = None,
) -> int:
    """Run a command with `sysroots` mounted in a private mount namespace; return its exit code.

    The code is a shell's: 128 plus the signal's number if a signal killed the command, 126 if it
    cannot be executed, 127 if it is not found. Signals sent to this process are forwarded to the
    command. Forks, so call it from a process with one thread. A `tracer` records what the command
    opens.

    Raises NamespaceRefused, StrategyRefused (both before the command is started), CasError,
    OSError.
    """
    with BlockedSignals() as mask:
        reports_fd, report_fd = os.pipe()
        permission_fd, permissions_fd = os.pipe()
        fds = permission_fd, report_fd
        traced = tracer is not None
        task = _SandboxTask(command, sysroots, sandbox, mask, os.getpid(), *fds, traced=traced)
        keeper = _fork()
        if keeper == 0:
            os.close(reports_fd)
            os.close(permissions_fd)
            _run_child(lambda: _run_keeper(task), report_fd)
        debug("sandbox keeper started: process %d", keeper)
        os.close(report_fd)
        os.close(permission_fd)
        with open(reports_fd) as reports, open(permissions_fd, "wb", buffering=0) as permissions:
            try:
                init = _set_up(keeper, sandbox, reports, permissions.write, tracer)
            except BaseException as error:
                if isinstance(error, CasError):
                    permissions.close()  # the keeper reads EOF, and removes its mount points
                else:
                    os.kill(keeper, signal.SIGKILL)
                os.waitpid(keeper, 0)
                if isinstance(error, Interrupted):
                    return SIGNAL_EXIT_BASE + error.number
                raise
            debug("sandbox init started: process %d", init)
            # The pipe for permissions stays open: its end would make a late init give up.
            with _recording(tracer):
                code = supervise(keeper, forward_to=init)
            debug("sandbox ended with exit code %d", code)
            return code


def run_without_namespaces(
    command: Sequence[bytes], sandbox: Sandbox, tracer: Tracer | None = None
) -> int:
    """Run a command without namespaces; otherwise like `run_sandboxed`."""
    with BlockedSignals() as mask:
        task = _SandboxTask(command, (), sandbox, mask, os.getpid())
        if tracer is not None:
            tracer.watch(b"")
        child = _fork()
        if child == 0:
            _run_child(lambda: _execute_without_namespaces(task), _NO_FD)
        debug("command started without namespaces: process %d", child)
        with _recording(tracer):
            return supervise(child, forward_to=child)


def _recording(tracer: Tracer | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if tracer is None else tracer.reading()


def _fork() -> int:
    """fork(2), after flushing output that both processes would write otherwise."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return os.fork()


def _run_child(work: Callable[[], int], report_fd: int) -> NoReturn:
    """Do a forked child's work, report its errors, and exit without returning to the caller."""
    code = 1
    try:
        code = work()
    except NamespaceRefused as error:
        _report(report_fd, "namespace", str(error))
    except StrategyRefused as error:
        _report(report_fd, "strategy", str(error))
    except CasError as error:
        _report(report_fd, "error", error.message, error.hint)
    except OSError as error:
        where = "" if error.filename is None else f": {quoted(error.filename)}"
        _report(report_fd, "error", f"{error.strerror or error}{where}", hint_for(error))
    finally:
        sys.stderr.flush()
        os._exit(code)


def _report(report_fd: int, event: str, value: str | int, hint: str | None = None) -> None:
    os.write(report_fd, json.dumps([event, value, hint]).encode() + b"\n")


def _set_up(
    keeper: int,
    sandbox: Sandbox,
    reports: TextIO,
    permit: Callable[[bytes], object],
    tracer: Tracer | None,
) -> int:
    """Do the caller's part of the set-up, report by report; return the init's process id.

    Raises Interrupted, NamespaceRefused, StrategyRefused, CasError.
    """
    while line := read_line_unless_interrupted(reports):
        event, value, hint = json.loads(line)
        if event == "unshared":
            try:
                map_ids(keeper, map_root=sandbox.map_root)
            except OSError as error:
                reason = f"cannot map ids into a user namespace: {error}"
                raise NamespaceRefused(reason) from error
            permit(b"x")
        elif event == "mounted" and tracer is not None:
            tracer.watch(b"/proc/%d/root" % keeper)
            permit(b"x")
        elif event == "init":
            return int(value)
        elif event == "namespace":
            raise NamespaceRefused(value)
        elif event == "strategy":
            raise StrategyRefused(value)
        else:
            raise CasError(f"cannot set up the sandbox: {value}", hint=hint)
    raise CasError("cannot set up the sandbox: its process died")


def _run_keeper(task: _SandboxTask) -> int:
    """Enter new namespaces, mount, fork the init and wait for it; return its exit code."""
    _die_with(task.caller)
    namespaces = task.sandbox.namespaces
    try:
        # The PID namespace comes last: its first child becomes its init, and setting up may fork
        # (an overlay on an old kernel is mounted by a child).
        syscalls.unshare(namespaces & ~syscalls.CLONE_NEWPID)
    except OSError as error:
        raise NamespaceRefused(f"{NO_NAMESPACES} ({error})") from error
    _report(task.report_fd, "unshared", 0)
    if not os.read(task.permission_fd, 1):
        return 1
    root = RootFs()
    try:
        root.assemble(task.sysroots, task.sandbox.binds)
        if namespaces & syscalls.CLONE_NEWNET:
            bring_up_loopback()
        if task.sandbox.directory is not None:
            os.chdir(task.sandbox.directory)
        if task.traced:
            _report(task.report_fd, "mounted", 0)
            if not os.read(task.permission_fd, 1):
                return 1
        syscalls.unshare(namespaces & syscalls.CLONE_NEWPID)
        init = os.fork()
        if init == 0:
            _run_child(lambda: _run_init(task), task.report_fd)
        _report(task.report_fd, "init", init)
        os.close(task.report_fd)
        return exit_code_of(os.waitpid(init, 0)[1])
    finally:
        os.chdir("/")  # a working directory in a sysroot would keep it busy
        root.release()


def _run_init(task: _SandboxTask) -> int:
    """Be process 1 of the PID namespace: start the command and reap orphans."""
    syscalls.die_with_parent(signal.SIGKILL)
    os.close(task.report_fd)
    # The parent cannot be checked by its id, which is 0 across PID namespaces. If the caller died
    # before the call above took effect, taking the keeper with it, the pipe is at its end.
    os.set_blocking(task.permission_fd, False)
    with contextlib.suppress(BlockingIOError):
        if not os.read(task.permission_fd, 1):
            return 1
    if task.sandbox.namespaces & syscalls.CLONE_NEWPID:
        mount_proc()
    own_pid = os.getpid()
    child = os.fork()
    if child == 0:
        _run_child(lambda: _execute(task, own_pid), _NO_FD)
    return supervise(child, forward_to=child, reap_all=True)


def _execute_without_namespaces(task: _SandboxTask) -> int:
    if task.sandbox.directory is not None:
        os.chdir(task.sandbox.directory)
    return _execute(task, task.caller)


def _execute(task: _SandboxTask, parent: int) -> int:
    """Execute the command with the caller's signal mask; return an exit code if that fails."""
    _die_with(parent)
    restore_signals(task.mask)
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
        os._exit(1)  # the parent died before the call above took effect
