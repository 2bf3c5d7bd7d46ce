"""Dependency lists of tasks, split into a target and a native sysroot."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cas.compose.order import PrioritizedName, with_priority
from cas.errors import InputRefused
from cas.model.signature import Signature
from cas.model.strict_json import has_type, parse

_NATIVE_RECIPES = ("*-native", "*-cross*")


class Dependencies(NamedTuple):
    """The IDs for the target sysroot and for the native sysroot of a task, in order."""

    target: tuple[str, ...]
    native: tuple[str, ...]


def parse_dependencies(text: str) -> list[str]:
    """Parse a dependency list; return its IDs, each `ID` or `ID@PRIORITY`.

    The list has one ID on each line (blank lines and lines that begin with `#` are skipped), or is
    a JSON list of IDs, and of objects with an `id` and an optional `priority` (integer). Raises
    InputRefused.
    """
    if not text.lstrip().startswith(("[", "{")):
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]
    try:
        entries = parse(text)
        if not isinstance(entries, list):
            raise ValueError("it is JSON, but not a list")
        return [_entry(entry) for entry in entries]
    except ValueError as error:
        raise InputRefused(
            f"the dependency list is invalid: {error}",
            hint='write one ID on each line, or JSON like ["glibc", {"id": "zlib", "priority": 1}]',
        ) from error


def split_native(names: Iterable[str], resolve: Callable[[str], Signature]) -> Dependencies:
    """Split IDs into those for the target sysroot and those for the native one.

    `resolve` turns an abbreviation into its complete ID. Native are tasks named `*_native`, and all
    tasks of recipes named `*-native` or `*-cross*`. Raises BadSignature, and the exceptions of
    `resolve`.
    """
    found: tuple[list[str], list[str]] = ([], [])
    for name in names:
        found[is_native(resolve(PrioritizedName.parse(name).name))].append(name)
    return Dependencies(tuple(found[False]), tuple(found[True]))


def is_native(signature: Signature) -> bool:
    """Return whether the tree of an ID runs on the build machine."""
    by_recipe = any(fnmatch.fnmatchcase(signature.recipe, p) for p in _NATIVE_RECIPES)
    return by_recipe or signature.task.endswith("_native")


def _entry(entry: object) -> str:
    if isinstance(entry, str) and has_type(entry, str):
        return entry
    shown = json.dumps(entry)
    if not isinstance(entry, dict):
        raise ValueError(f"{shown} is not an ID")
    name, priority = entry.get("id"), entry.get("priority", 0)
    if not isinstance(name, str) or not has_type(name, str) or type(priority) is not int:
        raise ValueError(f"{shown} needs a string as its id and an integer as its priority")
    if entry.keys() - {"id", "priority"}:
        raise ValueError(f"{shown} has fields other than id and priority")
    return with_priority(name, priority)
