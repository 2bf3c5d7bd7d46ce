"""Plans that come from elsewhere: decided on by one process, carried out by another.

    plan = mounter.Plan.load(open("plan.json").read())
    with mounter.held(plan):
        mounter.run_plans(["make"], [plan])     # in a child
    mounter.enter([plan])                       # or in this very process, for as long as it lives

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
from mounter.sandbox.namespaces import NO_NAMESPACES
from mounter.sandbox.rootfs import MountSpec, RootFs
from mounter.targets import nearest_directory, refuse_store_overlap


def hold(plan: Plan, purpose: str = "a plan") -> Lease:
    """Take a lease on what a plan uses; it lasts until it is closed, or this process ends.

    The store's lock makes sure that a collector sees the lease, or this a missing layer. Raises
    StoreDamaged (a layer is not there any more), OSError.
    """
    try:
        lock = open_file(os.path.join(plan.store, b"lock"))
    except FileNotFoundError as error:
        raise StoreDamaged(f"there is no store at {quoted(plan.store)} any more") from error
    except ValueError as error:
        raise StoreDamaged(f"the lock of {quoted(plan.store)} is none: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        named = ((artifact.id, artifact.tree) for artifact in plan.artifacts)
        lease = Lease(plan.store, plan.used, named, purpose)
        for tree in plan.layers:
            path = os.path.join(plan.store, layer_path(tree))
            if not os.path.isdir(path):
                lease.close()
                raise StoreDamaged(
                    f"the plan is out of date: {quoted(path)} is not in the store any more",
                    hint="make a new one with `cas plan`",
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
    """Mount what the plans say where only this process and its children see it, by overlay.

    The process, which must have one thread, gets a mount namespace of its own, and without
    privileges a user namespace in which it has its own ids only. The leases that are returned, and
    upper directories, are held until the process ends, whatever it executes if they are
    `inherited`, unless they are closed; a child that outlives it must have been given their
    descriptors. A directory that has to be made to mount on it stays.

    Raises NoStrategy (a plan is not by overlay, or the kernel refuses; then the process may be in
    new namespaces, with nothing mounted), what `hold` raises, InputRefused, OSError.
    """
    leases: list[Lease] = []
    if not plans:
        return leases
    try:
        for plan in plans:
            refuse_store_overlap(plan.target, plan.store)
            if plan.strategy not in (Strategy.AUTO, Strategy.OVERLAY):
                reason = f"the plan is by {plan.strategy.value}, which `carry_out` does"
                raise NoStrategy(plan.target, [reason])
            lease = hold(plan, purpose)
            leases.append(lease)
            upper = lock_upper(plan)  # until the process ends
            for fd in (lease.fd, upper):  # whatever it executes before that
                if fd is not None and fd >= 0:
                    os.set_inheritable(fd, inherited)
        placed = [MountSpec(p, f"cas-{le.name}") for p, le in zip(plans, leases, strict=True)]
        _enter_namespaces()
        RootFs().assemble(placed, ())
        count_sysroots(plans, overlaid=True)
    except StrategyRefused as refusal:
        _close_all(leases)
        raise NoStrategy(plans[0].target, [f"overlay: {refusal}"]) from refusal
    except BaseException:
        _close_all(leases)
        raise
    return leases


def decide(plan: Plan, *, private: bool) -> Plan:
    """Find out by which strategy a plan can be carried out, and return it with that and why.

    With `private`, by a command or process with namespaces of its own, else by `mount`. Tries
    it, and leaves nothing behind. Raises what they refuse: InputRefused, InUse, NoStrategy,
    OSError.
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
            return plan.by(strategy, reasons)
        reasons.append(f"{strategy.value}: {refusal}")
    raise NoStrategy(plan.target, reasons)


def _enter_namespaces() -> None:
    """Leave the mount namespace, and the user namespace if that is needed for it."""
    uid, gid = _real_ids()
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except PermissionError:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        except OSError as error:
            if error.errno == errno.EINVAL and len(os.listdir("/proc/self/task")) > 1:
                why = "a process with several threads cannot leave its user namespace"
            else:
                why = f"{NO_NAMESPACES} ({error})"
            raise StrategyRefused(why) from error
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1\n"),
            ("gid_map", f"{gid} {gid} 1\n"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _real_ids() -> list[int]:
    """Return this process's effective user and group, as the kernel knows them.

    Under pseudo(1) or fakeroot(1) the C library says otherwise.
    """
    with open("/proc/self/status") as file:
        found = dict(line.split(":", 1) for line in file)
    return [int(found[key].split()[1]) for key in ("Uid", "Gid")]


def _close_all(leases: Sequence[Lease]) -> None:
    for lease in leases:
        lease.close()


def _overlay_refusal(plan: Plan, *, private: bool) -> str:
    """Try the overlay in a child, at a place that only the child sees."""

    def attempt() -> None:
        user = syscalls.CLONE_NEWUSER if private and os.geteuid() else 0
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS | user)
        except PermissionError as error:
            raise StrategyRefused("the kernel does not let this user mount (EPERM)") from error
        except OSError as error:  # ENOSPC: there may be no more (user_namespaces(7))
            raise StrategyRefused(f"{NO_NAMESPACES} ({error})") from error
        syscalls.mount(None, b"/", None, syscalls.MS_SLAVE | syscalls.MS_REC)
        directory = os.open(os.path.join(plan.store, b"leases"), os.O_PATH | os.O_CLOEXEC)
        attach_overlay(plan, "cas", directory)

    return try_in_child("", attempt).detail


def _link_refusal(plan: Plan, strategy: Strategy, *, private: bool) -> str:
    """Try to make a file beside the target, by hardlink as a link to one of the store.

    A `private` tree is made in the store, where that works.
    """
    try:
        refuse_writable(plan, strategy)
    except StrategyRefused as refusal:
        return str(refusal)
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
