"""Dependency lists of tasks, and their division into the target's and the native sysroot."""

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
    """The dependencies of a task: the IDs for its target sysroot and its native one, in order."""

    target: tuple[str, ...]
    native: tuple[str, ...]


def parse_dependencies(text: str) -> list[str]:
    """Parse a dependency list; return its IDs, each as `ID` or `ID@PRIORITY`.

    The list has one ID per line; blank lines and lines that start with `#` are ignored. Or it is
    JSON: an array of IDs, or of objects with an `id` and optionally a `priority` (an integer).
    Raises InputRefused.
    """
    if not text.lstrip().startswith(("[", "{")):
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]
    try:
        entries = parse(text)
        if not isinstance(entries, list):
            raise ValueError("the JSON is not an array")
        return [_entry(entry) for entry in entries]
    except ValueError as error:
        raise InputRefused(
            f"the dependency list is invalid: {error}",
            hint='write one ID per line, or JSON like ["glibc", {"id": "zlib", "priority": 1}]',
        ) from error


def split_native(names: Iterable[str], resolve: Callable[[str], Signature]) -> Dependencies:
    """Divide IDs or abbreviations into those for the target's sysroot and the native one.

    `resolve` returns the full ID. Artifacts of a task `*_native`, or of a recipe named `*-native`
    or `*-cross*`, are native. Raises BadSignature, and the exceptions of `resolve`.
    """
    target: list[str] = []
    native: list[str] = []
    for name in names:
        signature = resolve(PrioritizedName.parse(name).name)
        (native if is_native(signature) else target).append(name)
    return Dependencies(tuple(target), tuple(native))


def is_native(signature: Signature) -> bool:
    """Return whether an artifact runs on the build machine, judged by its recipe and task."""
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
        raise ValueError(f"{shown} must have a string `id` and an integer `priority`")
    if entry.keys() - {"id", "priority"}:
        raise ValueError(f"{shown} has members other than `id` and `priority`")
    return with_priority(name, priority)
