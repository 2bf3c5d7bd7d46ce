"""Parses recipes and runs tasks by the genuine modules of BitBake, as its worker does.

    run.py hashes RECIPE…                prints the hashes of all tasks of recipes
    run.py task RECIPE TASK [DEPENDS…]   runs a task, whose recipe depends on others' sysroots

    run.py completed                     tells handlers that the build has ended

in a build directory. A dependency is `RECIPE` or `RECIPE>RECIPE`, one of another.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from typing import Any

import bb
import bb.build
import bb.cookerdata
import bb.event
import bb.parse
import bb.utils

SYSROOT = "do_populate_sysroot"


def main() -> None:
    """Do what the arguments say; end with the code of the task."""
    logging.getLogger("BitBake").addHandler(logging.StreamHandler())
    configuration = bb.cookerdata.CookerConfiguration()
    configuration.env = dict(os.environ)
    builder = bb.cookerdata.CookerDataBuilder(configuration, True)
    builder.parseBaseConfiguration()
    verb, *rest = sys.argv[1:]
    if verb == "hashes":
        for recipe in rest:
            _parsed(builder, recipe)
        print(json.dumps(bb.parse.siggen.basehash))
    elif verb == "completed":
        bb.event.fire(bb.event.BuildCompleted(0, "", []), builder.data)
    else:
        sys.exit(_run(builder, *rest))


def _file(recipe: str) -> str:
    return os.path.abspath(f"recipes/{recipe}.bb")


def _parsed(builder: Any, recipe: str) -> Any:
    return builder.parseRecipe(_file(recipe), [], "core")


def _hash(recipe: str) -> str:
    with open(_file(recipe), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _taskdepdata(recipe: str, task: str, depends: tuple[str, ...]) -> dict[str, Any]:
    """Return what BitBake tells a task of its dependencies."""
    entries: dict[str, Any] = {}

    def add(name: str, its_task: str) -> str:
        tid = f"{_file(name)}:{its_task}"
        if tid not in entries:
            fields: tuple[Any, ...] = (
                name,
                its_task,
                _file(name),
                set(),
                [name],
                _hash(name),
                _hash(name),
            )
            entries[tid] = [*fields, None, set()]
        return tid

    tid = add(recipe, task)
    for text in depends:
        user, _, used = text.rpartition(">")
        # Between two tasks with sstate there are others, which the layer has to see through.
        middle = add(user or recipe, "do_configure" if user else "do_between")
        entries[add(user, SYSROOT) if user else tid][3].add(middle)
        entries[middle][3].add(add(used, SYSROOT))
    return entries


def _run(builder: Any, recipe: str, task: str, *depends: str) -> int:
    d = _parsed(builder, recipe)
    d.setVar("BB_TASKDEPDATA", _taskdepdata(recipe, task, depends))
    d.setVar("BB_TASKHASH", _hash(recipe))
    d.setVar("BB_UNIHASH", _hash(recipe))
    d.setVar("BB_WORKERCONTEXT", "1")
    d.setVarFlag(task, "nostamp", "1")  # stamps are for a whole build
    if not bb.utils.to_boolean(d.getVarFlag(task, "network")) and "SHARED" not in os.environ:
        bb.utils.disable_network(os.getuid(), os.getgid())
    bb.utils.empty_environment()
    for key, value in bb.data.exported_vars(d):
        os.environ[key] = value
    code: int = bb.build.exec_task(_file(recipe), task, d)
    return code


if __name__ == "__main__":
    main()
