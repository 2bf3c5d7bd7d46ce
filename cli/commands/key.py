"""`cas key`: keys that sign artifacts in a remote."""

from __future__ import annotations

import os

import click

from cas.remote.signing import generate
from cli.options.common import json_option
from cli.output.printing import emit


@click.group("key")
def key_command() -> None:
    """Generate keys that sign pushed artifacts.

    \b
    cas key generate farm.key
    """


@key_command.command("generate")
@click.argument("file", type=click.Path(path_type=bytes))
@json_option
def key_generate_command(file: bytes, as_json: bool) -> None:
    """Generate a key pair.

    The private key is written to FILE, and the public key is printed. `cas push --sign-key FILE`
    signs with the key. A store with public keys in its config.toml accepts only artifacts that one
    of them has signed:

    \b
    trusted_keys = ["ed25519:…"]

    \b
    cas key generate farm.key
    """
    key = generate(file)
    emit(as_json, {"public": key.public, "path": os.fsdecode(file)}, [key.public])
