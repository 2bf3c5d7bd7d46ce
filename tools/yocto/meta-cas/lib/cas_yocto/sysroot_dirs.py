"""A recipe's sysroots on disk: a directory for each generation.

cas-sysroots/lock
cas-sysroots/current -> 2
cas-sysroots/prepared -> 1      the generation of do_prepare_recipe_sysroot
cas-sysroots/2/sysroots.json
cas-sysroots/2/0, 2/1 …         upper directories, in the order of the plans
cas-sysroots/1/made.json        the files relocated or made by scripts, by upper directory
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cas_yocto.plan import SysrootComponents
from cas_yocto.upload import Component
from mounter.plan import Plan

_LINKS = ("current", "prepared")


class Generation(NamedTuple):
    """A version of a recipe's sysroots: the components for each of its `tasks`, and the plans.

    There is a plan for each sysroot; the upper directories are in the directory `path`.
    """

    path: str
    tasks: dict[str, SysrootComponents]
    plans: tuple[Plan, ...]

    @property
    def sysroots(self) -> SysrootComponents:
        """The components for all tasks together; where tasks differ, the last one's."""
        return merge_tasks(self.tasks)

    def save(self) -> None:
        """Write sysroots.json. Raises OSError."""
        document = {"tasks": self.tasks, "plans": [plan.encode() for plan in self.plans]}
        staging = os.path.join(self.path, f"{os.getpid()}.json")
        with open(staging, "w") as file:
            json.dump(document, file)
        os.replace(staging, os.path.join(self.path, "sysroots.json"))


class Generations:
    """The generations of a recipe's sysroots, in a directory that may not exist yet."""

    def __init__(self, path: str) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for a `with` block, so that only this task changes it."""
        os.makedirs(self.path, exist_ok=True)
        with open(os.path.join(self.path, "lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def current(self) -> Generation | None:
        """Return the generation that tasks mount, if any."""
        return self._read("current")

    def prepared(self) -> Generation | None:
        """Return the generation that do_prepare_recipe_sysroot made, if any."""
        return self._read("prepared")

    def _read(self, link: str) -> Generation | None:
        path = os.path.realpath(os.path.join(self.path, link))
        try:
            with open(os.path.join(path, "sysroots.json")) as file:
                document = json.load(file)
        except FileNotFoundError:
            return None
        tasks = {
            task: {
                sysroot: {recipe: Component(*fields) for recipe, fields in components.items()}
                for sysroot, components in sysroots.items()
            }
            for task, sysroots in document["tasks"].items()
        }
        return Generation(path, tasks, tuple(map(Plan.decode, document["plans"])))

    def begin(
        self, tasks: dict[str, SysrootComponents], plans: Sequence[Plan], old: Generation | None
    ) -> Generation:
        """Make a new generation, with copies of an old one's upper directories; return it."""
        numbers = [int(name) for name in os.listdir(self.path) if name.isdigit()]
        path = os.path.join(self.path, str(max(numbers, default=0) + 1))
        os.mkdir(path)
        old_uppers = {plan.target: plan.upper for plan in old.plans} if old else {}
        new_plans = []
        for number, plan in enumerate(plans):
            upper = os.path.join(path, str(number))
            os.makedirs(os.path.join(upper, "upper"))
            if old_upper := old_uppers.get(plan.target):
                _copy_upper(os.fsdecode(old_upper), upper)
            new_plans.append(plan._replace(upper=os.fsencode(upper)))
        generation = Generation(path, tasks, tuple(new_plans))
        generation.save()
        return generation

    def record_made_files(self, generation: Generation) -> None:
        """Record the files in the upper directories before the recipe's functions add theirs."""
        made = {os.fsdecode(plan.target): _file_states(plan) for plan in generation.plans}
        with open(os.path.join(generation.path, "made.json"), "w") as file:
            json.dump(made, file)

    def copy_recipe_changes(self, prepared: Generation, new: Generation) -> None:
        """Copy the files that the recipe's functions wrote after `record_made_files`."""
        with open(os.path.join(prepared.path, "made.json")) as file:
            made = json.load(file)
        new_uppers = {plan.target: os.fsdecode(plan.upper or b"") for plan in new.plans}
        for plan in prepared.plans:
            if plan.target not in new_uppers:
                continue
            old_states, old_upper = made[os.fsdecode(plan.target)], os.fsdecode(plan.upper or b"")
            with _unused_upper(old_upper):
                changed = [
                    path
                    for path, state in _file_states(plan).items()
                    if old_states.get(path) != state
                ]
                for path in changed:
                    copy = os.path.join(new_uppers[plan.target], "upper", path)
                    os.makedirs(os.path.dirname(copy), exist_ok=True)
                    shutil.copy2(
                        os.path.join(old_upper, "upper", path), copy, follow_symlinks=False
                    )

    def publish(self, generation: Generation, *, prepared: bool) -> None:
        """Make a generation the current one, and delete those that no task has mounted.

        The prepared one is kept, since the recipe's functions may have written there.
        """
        staging = os.path.join(self.path, "next")
        for link in ("prepared", "current") if prepared else ("current",):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staging)
            os.symlink(os.path.basename(generation.path), staging)
            os.replace(staging, os.path.join(self.path, link))
        self._delete_unused()

    def forget(self) -> None:
        """Have no current generation, and delete those that no task has mounted."""
        for link in _LINKS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.path, link))
        self._delete_unused()

    def _delete_unused(self) -> None:
        kept = [os.path.realpath(os.path.join(self.path, link)) for link in _LINKS]
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            if name.isdigit() and os.path.realpath(path) not in kept and not _is_mounted(path):
                shutil.rmtree(path, ignore_errors=True)


def merge_tasks(tasks: dict[str, SysrootComponents]) -> SysrootComponents:
    """Return the components for all tasks together; where tasks differ, the last one's."""
    merged: SysrootComponents = {}
    for sysroots in tasks.values():
        for sysroot, components in sysroots.items():
            merged[sysroot] = merged.get(sysroot, {}) | components
    return merged


def _file_states(plan: Plan) -> dict[str, list[int]]:
    """Return the files in an upper directory, with numbers that reveal changes to them.

    overlayfs's marks for deleted files, which are character devices, are left out.
    """
    top = os.path.join(os.fsdecode(plan.upper or b""), "upper")
    states = {}
    for directory, names, files in os.walk(top):
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]
        for name in [*files, *links]:
            path = os.path.join(directory, name)
            state = os.lstat(path)
            if not stat.S_ISCHR(state.st_mode):
                numbers = [state.st_ino, state.st_mtime_ns, state.st_size]
                states[os.path.relpath(path, top)] = numbers
    return states


def _copy_upper(old: str, new: str) -> None:
    """Copy an upper directory, with the attributes and devices that overlayfs uses as marks."""
    # cp(1), since shutil.copytree does not copy devices.
    with _unused_upper(old):
        subprocess.run(
            ["cp", "-a", f"{old}/upper", new], check=True, capture_output=True, text=True
        )


@contextlib.contextmanager
def _unused_upper(upper: str) -> Iterator[None]:
    """Wait until no task writes to an upper directory, and prevent it for a `with` block."""
    with open(os.path.join(upper, "lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _is_mounted(path: str) -> bool:
    """Return whether a task has mounted a generation."""
    for lock_path in glob.glob(f"{glob.escape(path)}/*/lock"):
        with open(lock_path) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False
