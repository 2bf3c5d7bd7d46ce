"""`cas key`: keys that say who may tell what a signature means."""

from __future__ import annotations

import os

import click

from cas.remote.signing import generate
from cli.options.common import json_option
from cli.output.printing import emit


@click.group("key")
def key_command() -> None:
    """Make keys that sign what is pushed.

    \b
    cas key generate farm.key
    """


@key_command.command("generate")
@click.argument("file", type=click.Path(path_type=bytes))
@json_option
def key_generate_command(file: bytes, as_json: bool) -> None:
    """Make a pair of keys.

    FILE gets the private key, and the public one is printed. `cas push --sign-key FILE` signs with
    it. Stores in whose config.toml the public key is take only what one of the keys there has
    signed:

    \b
    trusted_keys = ["ed25519:…"]

    \b
    cas key generate farm.key
    """
    key = generate(file)
    emit(as_json, {"public": key.public, "path": os.fsdecode(file)}, [key.public])
