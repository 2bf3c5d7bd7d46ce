"""What a recipe's sysroots consist of, on disk: a directory for each generation.

cas-sysroots/lock
cas-sysroots/current -> 2
cas-sysroots/prepared -> 1      that of do_prepare_recipe_sysroot
cas-sysroots/2/sysroots.json
cas-sysroots/2/0, 2/1 …         upper directories, in the order of the plans
cas-sysroots/1/made.json        what was relocated, and made by scripts, in each upper directory
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

from cas_yocto.plan import Wanted
from cas_yocto.upload import Component
from mounter.plan import Plan


class Generation(NamedTuple):
    """Sysroots: what each of the recipe's `tasks` wants in them, and a plan for each sysroot.

    The upper directories of the plans are in the directory `path`.
    """

    path: str
    tasks: dict[str, Wanted]
    plans: tuple[Plan, ...]

    @property
    def wanted(self) -> Wanted:
        """What all tasks want together; where they differ, what the last one wants."""
        return united(self.tasks)

    def save(self) -> None:
        """Write down what it consists of."""
        document = {"tasks": self.tasks, "plans": [plan.encode() for plan in self.plans]}
        beside = os.path.join(self.path, f"{os.getpid()}.json")
        with open(beside, "w") as file:
            json.dump(document, file)
        os.replace(beside, os.path.join(self.path, "sysroots.json"))


class Generations:
    """The generations of a recipe's sysroots, in a directory that need not be there."""

    def __init__(self, path: str) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other tasks of the recipe from changing what is current, for a `with` block."""
        os.makedirs(self.path, exist_ok=True)
        with open(os.path.join(self.path, "lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def current(self) -> Generation | None:
        """Return the generation that tasks mount; None if there is none."""
        return self._named("current")

    def prepared(self) -> Generation | None:
        """Return what do_prepare_recipe_sysroot has made; None if there is none."""
        return self._named("prepared")

    def _named(self, name: str) -> Generation | None:
        path = os.path.realpath(os.path.join(self.path, name))
        try:
            with open(os.path.join(path, "sysroots.json")) as file:
                document = json.load(file)
        except FileNotFoundError:
            return None
        tasks = {
            task: {
                sysroot: {recipe: Component(*fields) for recipe, fields in components.items()}
                for sysroot, components in wanted.items()
            }
            for task, wanted in document["tasks"].items()
        }
        return Generation(path, tasks, tuple(map(Plan.decode, document["plans"])))

    def begin(
        self, tasks: dict[str, Wanted], plans: Sequence[Plan], old: Generation | None
    ) -> Generation:
        """Make a new generation, with upper directories like those of an old one."""
        numbers = [int(name) for name in os.listdir(self.path) if name.isdigit()]
        path = os.path.join(self.path, str(max(numbers, default=0) + 1))
        os.mkdir(path)
        uppers = {plan.target: plan.upper for plan in old.plans} if old else {}
        for number, plan in enumerate(plans):
            upper = os.path.join(path, str(number))
            os.makedirs(os.path.join(upper, "upper"))
            if source := uppers.get(plan.target):
                _copy(os.fsdecode(source), upper)
        made = (
            plan._replace(upper=os.fsencode(os.path.join(path, str(number))))
            for number, plan in enumerate(plans)
        )
        generation = Generation(path, tasks, tuple(made))
        generation.save()
        return generation

    def note_made(self, generation: Generation) -> None:
        """Note what is in the upper directories before functions of the recipe write there."""
        made = {os.fsdecode(plan.target): _files(plan) for plan in generation.plans}
        with open(os.path.join(generation.path, "made.json"), "w") as file:
            json.dump(made, file)

    def copy_own(self, prepared: Generation, new: Generation) -> None:
        """Copy what functions of the recipe have written since `note_made`."""
        with open(os.path.join(prepared.path, "made.json")) as file:
            made = json.load(file)
        uppers = {plan.target: os.fsdecode(plan.upper or b"") for plan in new.plans}
        for plan in prepared.plans:
            if plan.target not in uppers:
                continue
            before, old = made[os.fsdecode(plan.target)], os.fsdecode(plan.upper or b"")
            with _settled(old):
                changed = [
                    path for path, state in _files(plan).items() if before.get(path) != state
                ]
                for path in changed:
                    copy = os.path.join(uppers[plan.target], "upper", path)
                    os.makedirs(os.path.dirname(copy), exist_ok=True)
                    shutil.copy2(os.path.join(old, "upper", path), copy, follow_symlinks=False)

    def publish(self, generation: Generation, *, prepared: bool) -> None:
        """Make a generation the current one, and delete those that no task has mounted.

        What was `prepared` stays: functions of the recipe may have written there.
        """
        beside = os.path.join(self.path, "next")
        for name in ("prepared", "current") if prepared else ("current",):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            os.symlink(os.path.basename(generation.path), beside)
            os.replace(beside, os.path.join(self.path, name))
        self._delete_unused()

    def forget(self) -> None:
        """Let there be no generation, and delete those that no task has mounted."""
        for name in ("current", "prepared"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.path, name))
        self._delete_unused()

    def _delete_unused(self) -> None:
        kept = [os.path.realpath(os.path.join(self.path, n)) for n in ("current", "prepared")]
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            if name.isdigit() and os.path.realpath(path) not in kept and not _in_use(path):
                shutil.rmtree(path, ignore_errors=True)


def united(tasks: dict[str, Wanted]) -> Wanted:
    """Return what tasks want together; where they differ, what the last one wants."""
    found: Wanted = {}
    for wanted in tasks.values():
        for sysroot, components in wanted.items():
            found[sysroot] = found.get(sysroot, {}) | components
    return found


def _files(plan: Plan) -> dict[str, list[int]]:
    """Return all files in an upper directory, but overlayfs's marks, and what tells a change."""
    top = os.path.join(os.fsdecode(plan.upper or b""), "upper")
    found = {}
    for directory, names, files in os.walk(top):
        for name in [*files, *(n for n in names if os.path.islink(os.path.join(directory, n)))]:
            path = os.path.join(directory, name)
            state = os.lstat(path)
            if not stat.S_ISCHR(state.st_mode):
                found[os.path.relpath(path, top)] = [state.st_ino, state.st_mtime_ns, state.st_size]
    return found


def _copy(old: str, new: str) -> None:
    """Copy an upper directory, with the attributes and devices by which overlayfs marks things."""
    with _settled(old):
        subprocess.run(
            ["cp", "-a", f"{old}/upper", new], check=True, capture_output=True, text=True
        )


@contextlib.contextmanager
def _settled(upper: str) -> Iterator[None]:
    """Wait until nobody changes an upper directory any more; keep it so for a `with` block."""
    with open(os.path.join(upper, "lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _in_use(path: str) -> bool:
    """Tell whether a task has mounted a generation."""
    for name in glob.glob(f"{glob.escape(path)}/*/lock"):
        with open(name) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False
