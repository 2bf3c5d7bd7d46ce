"""The schemas of the documents of `--json`, and checks against them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema

from cli.main import cas

SCHEMAS = Path(__file__).parents[2] / "docs/schemas"
GROUPS = ("import", "key", "remote")
"""The commands that have commands."""


def commands() -> dict[str, click.Command]:
    """Return all commands by name, in the order of the help."""
    return dict(_commands(cas, ()))


def _commands(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from _commands(command, (*words, name))
            else:
                yield " ".join((*words, name)), command


def schema_path(command: str) -> Path:
    """Return where the schema of a command's document is."""
    return SCHEMAS / f"{command.replace(' ', '-')}.json"


def schema_of(command: str) -> dict[str, Any]:
    """Read the schema of a command's document."""
    schema: dict[str, Any] = json.loads(schema_path(command).read_text())
    return schema


def parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a schema, and all schemas that are in it."""
    yield schema
    inner: list[Any] = [schema[word] for word in ("items",) if word in schema]
    for word in ("properties", "$defs"):
        inner += schema.get(word, {}).values()
    for word in ("anyOf", "oneOf"):
        inner += schema.get(word, [])
    for one in inner:
        yield from parts(one)


def closed(schema: dict[str, Any], *, whole: bool = True) -> dict[str, Any]:
    """Return a schema that allows only the properties that it describes.

    A schema that describes a part of a value, in `oneOf` or behind a `$ref`, is closed where it is
    used, since other parts may describe more of the same value.
    """
    result = dict(schema)
    for word, value in schema.items():
        if word in ("properties", "$defs"):
            whole_ones = word == "properties"
            result[word] = {name: closed(one, whole=whole_ones) for name, one in value.items()}
        elif word in ("anyOf", "oneOf"):
            result[word] = [closed(one, whole=False) for one in value]
        elif word == "items":
            result[word] = closed(value)
    return result | {"unevaluatedProperties": False} if whole else result


@functools.cache
def _validator(command: str) -> Any:
    return jsonschema.Draft202012Validator(closed(schema_of(command)))


def check(command: str, document: object) -> None:
    """Assert that a document matches its command's schema and has nothing else."""
    wrong = [
        f"{error.json_path}: {error.message}" for error in _validator(command).iter_errors(document)
    ]
    assert not wrong, (command, wrong, document)
