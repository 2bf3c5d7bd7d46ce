"""A task's dependency list, and the two sysroots that it makes."""

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
    """What a task needs: the IDs for its target sysroot and for its native one, in order."""

    target: tuple[str, ...]
    native: tuple[str, ...]


def parse_dependencies(text: str) -> list[str]:
    """Read a dependency list; return the IDs in it, `ID` or `ID@PRIORITY` each.

    It has an ID on each line (blank lines and those with `#` first are passed over), or is JSON:
    a list of IDs, and of objects with an `id` and, if wanted, a `priority` (whole number).
    Raises InputRefused.
    """
    if not text.lstrip().startswith(("[", "{")):
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]
    try:
        entries = parse(text)
        if not isinstance(entries, list):
            raise ValueError("it is JSON, but no list")
        return [_entry(entry) for entry in entries]
    except ValueError as error:
        raise InputRefused(
            f"the dependency list is invalid: {error}",
            hint='give an ID a line, or JSON like ["glibc", {"id": "zlib", "priority": 1}]',
        ) from error


def split_native(names: Iterable[str], resolve: Callable[[str], Signature]) -> Dependencies:
    """Sort IDs into the target's and the native ones, by what `resolve` says they name.

    Native is what a task `*_native` made, or any task of a recipe named `*-native` or
    `*-cross*`; the rest is for the target. Raises what `resolve` raises, BadSignature.
    """
    found: tuple[list[str], list[str]] = ([], [])
    for name in names:
        found[is_native(resolve(PrioritizedName.parse(name).name))].append(name)
    return Dependencies(tuple(found[False]), tuple(found[True]))


def is_native(signature: Signature) -> bool:
    """Tell whether a signature's tree runs on the machine that builds."""
    by_recipe = any(fnmatch.fnmatchcase(signature.recipe, p) for p in _NATIVE_RECIPES)
    return by_recipe or signature.task.endswith("_native")


def _entry(entry: object) -> str:
    if isinstance(entry, str) and has_type(entry, str):
        return entry
    shown = json.dumps(entry)
    if not isinstance(entry, dict):
        raise ValueError(f"{shown} is no ID")
    name, priority = entry.get("id"), entry.get("priority", 0)
    if not isinstance(name, str) or not has_type(name, str) or type(priority) is not int:
        raise ValueError(f"{shown} has no text as its id, or no whole number as its priority")
    if entry.keys() - {"id", "priority"}:
        raise ValueError(f"{shown} has more than an id and a priority")
    return with_priority(name, priority)
