"""What a store is told once for all who use it: `config.toml` in its directory."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

from cas.documents import read_file
from cas.errors import CasError, ExitCode
from cas.quoting import quoted

NAME = b"config.toml"
_PUBLIC_KEY = re.compile(r"ed25519:[A-Za-z0-9+/]{43}=")
_HINT = "docs/sharing.md says what may be in it"


class BadConfig(CasError):
    """The configuration of a store says something that is not understood."""

    exit_code = ExitCode.USAGE

    def __init__(self, path: bytes, why: str) -> None:
        super().__init__(f"{quoted(path)}: {why}", hint=_HINT)


class Config(NamedTuple):
    """`remotes` are URLs by name; `trusted_keys` the public keys whose records count.

    `remote_timeout_s` is how long (seconds) a remote may give no sign before it is given up.
    """

    remotes: Mapping[str, str] = {}
    trusted_keys: tuple[str, ...] = ()
    remote_timeout_s: float = 60.0


def read_config(store: bytes) -> Config:
    """Read the configuration of the store at the absolute path `store`; none is an empty one.

    Raises BadConfig, OSError.
    """
    path = os.path.join(store, NAME)
    try:
        document = tomllib.loads(read_file(path).decode())
    except FileNotFoundError:
        return Config()
    except ValueError as error:  # also what is no TOML, and no UTF-8
        raise BadConfig(path, str(error)) from error
    try:
        return _config(document)
    except ValueError as error:
        raise BadConfig(path, str(error)) from error


def _config(document: dict[str, Any]) -> Config:
    for name in document:
        if name not in Config._fields:
            known = ", ".join(Config._fields)
            raise ValueError(f"there is no setting `{name}`; there are {known}")
    remotes, keys = document.get("remotes", {}), document.get("trusted_keys", [])
    if not isinstance(remotes, dict) or not all(map(_is_url, remotes.values())):
        raise ValueError('remotes are lines of NAME = "URL"')
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("trusted_keys are a list of texts")
    timeout_s = document.get("remote_timeout_s", Config().remote_timeout_s)
    if type(timeout_s) not in (int, float) or not 0 < timeout_s < 1e6:
        raise ValueError("remote_timeout_s is a number of seconds")
    return Config(remotes, tuple(map(_key, keys)), float(timeout_s))


def _key(text: str) -> str:
    if not _PUBLIC_KEY.fullmatch(text):
        raise ValueError(f"{text[:100]!r} is no public key, as `cas key generate` prints one")
    return text


def _is_url(value: object) -> bool:
    return isinstance(value, str) and "://" in value
