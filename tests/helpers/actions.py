"""Commands with their effects, and the invariants that hold after any fault."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
from _pytest.mark import ParameterSet

from cas.gc.policy import Policy
from cas.store import Store
from tests.helpers.injection import Outcome, Prepared
from tests.helpers.sampling import sample
from tests.helpers.support import Cas, make, mount_lines, snapshot, tidy

KEPT, NEW = "kept:t:12345678", "a:t:12345678"
FILES = {"shared": "1", "new": "2", "tool*": "3", "d/l@": "x"}


@dataclass(frozen=True, slots=True)
class Action:
    """A command, with functions that create its initial state and undo its effects.

    `again` are the allowed exit codes of a repetition.
    """

    arguments: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    after: tuple[tuple[str, ...], ...] = ()
    again: tuple[int, ...] = (0,)

    @property
    def name(self) -> str:
        """The name of the command."""
        return self.arguments[0]


_PUT = ("put", NEW, "tree")
_UMOUNT = ("umount", "target")


def _mounting(strategy: str) -> dict[str, Action]:
    mount = ("mount", "target", "a", "--strategy", strategy)
    other = ("mount", "target", "kept", "--strategy", strategy)
    # A mount may be there, complete, if the fault came at the very end of making it; or an umount
    # may have ended with the record gone.
    return {
        f"mount by {strategy}": Action(mount, (_PUT,), (_UMOUNT,), (0, 7)),
        f"umount by {strategy}": Action(_UMOUNT, (_PUT, mount), (), (0, 1)),
        f"update by {strategy}": Action(("update", "target", "a"), (_PUT, other), (_UMOUNT,)),
    }


ACTIONS = {
    "put": Action(_PUT, (), (("rm", "a"),)),
    "put --replace": Action(
        ("put", "--replace", NEW, "tree"), (("put", NEW, "kept"),), (("rm", "a"),)
    ),
    "put --move": Action(("put", "--move", NEW, "tree"), (), (("rm", "a"),)),
    "rm": Action(("rm", "a"), (_PUT,), (), (0, 3)),
    "gc": Action(("gc", "--max-age=0s", "--grace=0s"), (_PUT,)),
    "run": Action(("run", "--sysroot", "target=a", "--", "test", "-f", "target/new"), (_PUT,)),
    "run by hardlink": Action(
        ("run", "--strategy=hardlink", "--sysroot", "target=a", "--", "test", "-f", "target/new"),
        (_PUT,),
    ),
    **_mounting("hardlink"),
    **_mounting("copy"),
    **_mounting("overlay"),
}


_RM = ("rm", "a")
CARE = {
    "pin": Action(("pin", "a"), (_PUT,), (("unpin", "a"), _RM)),
    "sync": Action(("sync",), (_PUT,), (_RM,)),
    "verify": Action(("verify",), (_PUT,), (_RM,)),
    "verify --repair": Action(("verify", "--repair"), (_PUT,), (_RM,)),
    "rebuild-index": Action(("rebuild-index",), (_PUT,), (_RM,)),
}
"""Maintenance commands, which neither store nor remove an artifact."""

OF_USERS = ("put --move", "gc", "run", "run by hardlink", "umount by hardlink", "update by copy")
"""The actions that change read-only directories or make namespaces, which root does otherwise."""


def cases(names: Iterable[str]) -> list[ParameterSet]:
    """Return the names of actions as parameters; those in OF_USERS are marked `per_user`."""
    marks = {True: [pytest.mark.per_user], False: []}
    return [pytest.param(name, marks=marks[name in OF_USERS]) for name in names]


class Bench:
    """A store that has an artifact to be kept, a tree to be put, and a place for a target."""

    def __init__(self, cas: Cas, run: Prepared) -> None:
        self._run = run
        self._work, self._store = cas.directory, cas.store
        make(self._work / "kept", {"shared": "1", "own": "kept"})
        self._kept = snapshot(self._work / "kept")
        self._tree = self._work / "tree"
        self._whole = snapshot(make(self._tree, FILES))
        run("put", KEPT, "kept")
        run("pin", "kept")

    def meet(self, action: Action, calls: Iterable[str], fault: str) -> Iterator[Outcome]:
        """Do an action once for each of its system calls of these names, with a fault in that call.

        Of many calls, a random third gets a fault (sampling.py).

        Yields the outcome; then asserts the invariants.
        """
        self._begin(action)
        found = self._run.calls(*action.arguments, names=calls)
        self._finish(action, Outcome(0, "", ""))
        for call, number in sample(found):
            self._begin(action)
            done = self._run.with_fault(*action.arguments, call=call, number=number, fault=fault)
            yield done
            self._check(action, done)
            self._finish(action, done)

    def _begin(self, action: Action) -> None:
        """Make the state in which an action begins."""
        self._restore_tree()
        for arguments in action.before:
            self._do(arguments)

    def _do(self, arguments: tuple[str, ...]) -> None:
        """Do the work of a command, in this process if that takes a tenth of the time."""
        with Store(self._store) as store:
            match arguments:
                case ("put", name, tree):
                    store.put(name, self._work / tree)
                    return
                case ("rm", name):
                    store.remove([name])
                    return
        self._run(*arguments)

    def _check(self, action: Action, done: Outcome) -> None:
        """Assert that nothing is damaged, lost or half made, however an action ended."""
        with Store(self._store) as store:
            assert [str(found) for found in store.verify() if found.kind.is_damage] == [], done
            found = {str(one.signature): store.layer_path(one) for one in store.artifacts()}
        assert snapshot(found[KEPT]) == self._kept
        if action.name == "put" and NEW in found and "--replace" not in action.arguments:
            assert snapshot(found[NEW]) == self._whole, done
        if NEW not in found or "--move" not in action.arguments:
            assert snapshot(self._tree) == self._whole, done
        target = self._work / "target"
        clearing = any("rmdir(" in call or "umount2(" in call for call in done.met)
        if action.name == "run" and clearing and target.exists():
            target.rmdir()  # a leftover must not hide the exit code of the command
        there = snapshot(target) if target.is_dir() else None
        if action.name == "umount" and done.code and there:  # the rest of it can be taken away
            assert there.items() <= self._whole.items(), done
        else:
            assert there in (None, {}, self._whole, self._kept), done
        if there and action.name in ("mount", "umount", "update"):
            assert os.listdir(self._store / "mounts") != [], done
        if action.name == "update":
            assert there, done
        if action.name == "run":
            assert not there, done
        if done.code == 0:
            self._check_done(action, done)

    def _finish(self, action: Action, done: Outcome) -> None:
        """Assert that one collection clears up, and that the action can be repeated and undone."""
        with Store(self._store) as store:
            store.gc(store.plan_gc(Policy()))
        mounted = os.listdir(self._store / "mounts")
        for name in ("tmp", "leases"):
            assert os.listdir(self._store / name) == [], done
        if not mounted:
            tidy(self._store)
        if "--move" in action.arguments:
            self._restore_tree()
        repeated = self._run(*action.arguments, code=action.again)
        self._check_done(action, repeated)
        for arguments in action.after:
            self._do(arguments)
        if action.name == "umount" and (self._work / "target").exists():
            (self._work / "target").rmdir()
        left = set(os.listdir(self._work)) - {"store", "kept", "tree"}
        assert left == set(), done
        mounts = mount_lines()
        assert str(self._work) not in mounts, done

    def _check_done(self, action: Action, done: Outcome) -> None:
        with Store(self._store) as store:
            artifact = store.find(NEW)
            assert (artifact is None) is (action.name in ("rm", "gc")), done
            if artifact is not None and action.name == "put":
                assert snapshot(store.layer_path(artifact)) == self._whole
        assert self._tree.exists() is ("--move" not in action.arguments)
        target = self._work / "target"
        if action.name in ("mount", "update"):
            assert snapshot(target) == self._whole
        elif action.name == "umount":
            assert not target.exists() or os.listdir(target) == []
        else:
            assert not target.exists()

    def _restore_tree(self) -> None:
        if self._tree.exists() and snapshot(self._tree) != self._whole:
            shutil.rmtree(self._tree)  # the rest of a tree that was moved into the store
        if not self._tree.exists():
            make(self._tree, FILES)
