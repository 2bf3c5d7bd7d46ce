"""Plans that one process makes and another carries out.

    plan = mounter.Plan.load(open("plan.json").read())
    with mounter.held(plan):
        mounter.run_plans(["make"], [plan])     # in a child
    mounter.enter([plan])                       # or in this process, until it ends

Needs the standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence

from cas.disk.layout import layer_path
from cas.disk.leases import Lease
from cas.errors import StoreDamaged
from cas.system.debug_log import debug
from cas.system.file_lock import wait_for_lock
from cas.system.files import open_file
from cas.system.text import quoted
from mounter import syscalls
from mounter.linked.make import refuse_writable
from mounter.linked.place import STORE_READ_ONLY
from mounter.mounting import refuse_unmountable
from mounter.overlay.overlay import attach_overlay
from mounter.overlay.upper import lock_upper, refuse_locked_upper
from mounter.plan import NoStrategy, Plan, Strategy, StrategyRefused
from mounter.probe import try_in_child
from mounter.records import count_sysroots
from mounter.running import refuse_unmountable_paths
from mounter.sandbox.namespaces import NO_NAMESPACES, map_one_user
from mounter.sandbox.rootfs import MountSpec, RootFs
from mounter.targets import nearest_directory, refuse_store_overlap


def hold(plan: Plan, purpose: str = "a plan") -> Lease:
    """Return a lease on what a plan uses; it lasts until it is closed or this process ends.

    Raises StoreDamaged (a layer is missing), OSError.
    """
    try:
        lock = open_file(os.path.join(plan.store, b"lock"))
    except FileNotFoundError as error:
        raise StoreDamaged(f"the store {quoted(plan.store)} does not exist any more") from error
    except ValueError as error:
        raise StoreDamaged(f"the lock of {quoted(plan.store)} is invalid: {error}") from error
    try:
        # Under the lock, so that either a collector sees the lease, or a missing layer shows here.
        wait_for_lock(lock, fcntl.LOCK_SH, os.path.join(plan.store, b"lock"))
        trees_by_id = ((artifact.id, artifact.tree) for artifact in plan.artifacts)
        lease = Lease(plan.store, plan.used, trees_by_id, purpose)
        for tree in plan.layers:
            path = os.path.join(plan.store, layer_path(tree))
            if not os.path.isdir(path):
                lease.close()
                raise StoreDamaged(
                    f"the plan is out of date: {quoted(path)} was removed from the store",
                    hint="create a new one with `cas plan`",
                )
    finally:
        os.close(lock)
    return lease


@contextlib.contextmanager
def held(plan: Plan, purpose: str = "a plan") -> Iterator[Lease]:
    """`hold` for the length of a `with` block."""
    with hold(plan, purpose) as lease:
        yield lease


def enter(plans: Sequence[Plan], purpose: str = "a plan", *, inherited: bool = True) -> list[Lease]:
    """Mount plans, by overlay, where only this process and its children see them.

    The process, which must be single-threaded, enters a new mount namespace; without privileges
    also a new user namespace, in which only its own ids exist. Returns the leases; they and upper
    directories are held until they are closed or the process ends. If they are `inherited`, they
    last across execve(2); a child process that lives longer needs their descriptors. Directories
    that are made to mount at are not removed.

    Raises NoStrategy (a plan has another strategy, or the kernel refuses; then the process may be
    in new namespaces, with nothing mounted), what `hold` raises, InputRefused, OSError.
    """
    leases: list[Lease] = []
    if not plans:
        return leases
    try:
        for plan in plans:
            refuse_store_overlap(plan.target, plan.store)
            if plan.strategy not in (Strategy.AUTO, Strategy.OVERLAY):
                reason = f"`enter` cannot mount by {plan.strategy.value}; `carry_out` can"
                raise NoStrategy(plan.target, [reason])
            lease = hold(plan, purpose)
            leases.append(lease)
            upper = lock_upper(plan)  # never closed: it is held until the process ends
            for fd in (lease.fd, upper):
                if fd is not None and fd >= 0:
                    os.set_inheritable(fd, inherited)
        specs = [
            MountSpec(plan, f"cas-{lease.name}") for plan, lease in zip(plans, leases, strict=True)
        ]
        _enter_namespaces()
        RootFs().assemble(specs, ())
        debug("entered %d plans", len(plans))
        count_sysroots(plans, overlaid=True)
    except StrategyRefused as refusal:
        _close_all(leases)
        raise NoStrategy(plans[0].target, [f"overlay: {refusal}"]) from refusal
    except BaseException:
        _close_all(leases)
        raise
    return leases


def decide(plan: Plan, *, private: bool) -> Plan:
    """Try which strategy works for a plan; return the plan with it, and the reasons against others.

    `private` asks about a command or process with its own namespaces, else about `mount`. Leaves
    nothing behind. Raises InputRefused, InUse, NoStrategy, OSError.
    """
    if private:
        refuse_unmountable_paths([plan])
        refuse_locked_upper(plan)
    else:
        refuse_unmountable(plan)
    reasons: list[str] = []
    for strategy in plan.candidates:
        if strategy is Strategy.OVERLAY:
            refusal = _overlay_refusal(plan, private=private)
        else:
            refusal = _link_refusal(plan, strategy, private=private)
        if not refusal:
            debug("strategy %s works for %s", strategy.value, quoted(plan.target))
            return plan.by(strategy, reasons)
        debug("strategy %s refused: %s", strategy.value, refusal)
        reasons.append(f"{strategy.value}: {refusal}")
    raise NoStrategy(plan.target, reasons)


def _enter_namespaces() -> None:
    """Enter a new mount namespace, and a new user namespace if that is necessary."""
    uid, gid = _real_ids()  # before unshare(2), after which they are unmapped
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except PermissionError:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        except OSError as error:
            if error.errno == errno.EINVAL and len(os.listdir("/proc/self/task")) > 1:
                reason = "a process with several threads cannot enter a user namespace"
            else:
                reason = f"{NO_NAMESPACES} ({error})"
            raise StrategyRefused(reason) from error
        map_one_user("self", uid, gid)


def _real_ids() -> list[int]:
    """Return this process's effective user and group id, as the kernel knows them."""
    # Under pseudo(1) or fakeroot(1), geteuid(3) returns 0.
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return [int(fields[key].split()[1]) for key in ("Uid", "Gid")]


def _close_all(leases: Sequence[Lease]) -> None:
    for lease in leases:
        lease.close()


def _overlay_refusal(plan: Plan, *, private: bool) -> str:
    """Try the overlay in a child with its own namespaces; return why it is refused, or ""."""

    def attempt() -> None:
        user = syscalls.CLONE_NEWUSER if private and os.geteuid() else 0
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS | user)
        except PermissionError as error:
            raise StrategyRefused("the kernel does not let this user mount (EPERM)") from error
        except OSError as error:  # for example ENOSPC, the limit of user_namespaces(7)
            raise StrategyRefused(f"{NO_NAMESPACES} ({error})") from error
        syscalls.mount(None, b"/", None, syscalls.MS_SLAVE | syscalls.MS_REC)
        directory = os.open(os.path.join(plan.store, b"leases"), os.O_PATH | os.O_CLOEXEC)
        attach_overlay(plan, "cas", directory)

    return try_in_child("", attempt).detail


def _link_refusal(plan: Plan, strategy: Strategy, *, private: bool) -> str:
    """Try a link or directory beside the target; return why the strategy is refused, or ""."""
    try:
        refuse_writable(plan, strategy)
    except StrategyRefused as refusal:
        return str(refusal)
    # A private tree is made inside the store, where linking works.
    if private:
        return ""
    if os.statvfs(plan.store).f_flag & os.ST_RDONLY:
        return STORE_READ_ONLY
    parent = nearest_directory(os.path.dirname(plan.target))
    name = os.path.join(parent, f".cas-{os.urandom(8).hex()}".encode())
    try:
        if strategy is Strategy.HARDLINK:
            os.link(os.path.join(plan.store, b"format"), name)
        else:
            os.mkdir(name)
    except OSError as error:
        return str(error.strerror)
    if strategy is Strategy.HARDLINK:
        os.unlink(name)
    else:
        os.rmdir(name)
    return ""
