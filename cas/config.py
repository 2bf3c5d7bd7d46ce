"""What a store is told once for all who use it: `config.toml` in its directory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cas.errors import CasError, ExitCode
from cas.system.files import read_file
from cas.system.text import quoted, suggestion

NAME = b"config.toml"
_PUBLIC_KEY = re.compile(r"ed25519:[A-Za-z0-9+/]{43}=")
_HINT = "docs/configuration.md says what may be in it"
_OF_GC = ("max_age", "max_size", "keep_last", "grace")


class BadConfig(CasError):
    """The configuration of a store says something that is not understood."""

    exit_code = ExitCode.USAGE

    def __init__(self, path: bytes, why: str) -> None:
        super().__init__(f"{quoted(path)}: {why}", hint=_HINT)


class Config(NamedTuple):
    """`remotes` are URLs by name; `trusted_keys` the public keys whose records count.

    `remote_timeout_s` is how long (seconds) a remote may give no sign before it is given up. The
    others are what commands take if nothing is said to them, as it would be said; None is nothing.
    """

    conflicts: str | None = None
    allow_overlap: tuple[str, ...] | None = None
    strategy: str | None = None
    gc: Mapping[str, str | int] = {}
    remotes: Mapping[str, str] = {}
    trusted_keys: tuple[str, ...] = ()
    remote_timeout_s: float = 60.0


def config_path(store: bytes) -> bytes:
    """Return where the configuration of the store at the absolute path `store` is."""
    return os.path.join(store, NAME)


def read_config(store: bytes) -> Config:
    """Read the configuration of the store at the absolute path `store`; none is an empty one.

    Raises BadConfig, OSError.
    """
    path = config_path(store)
    try:
        data = read_file(path)
        import tomllib  # most commands find no file, and need not wait for it

        document = tomllib.loads(data.decode())
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
            raise ValueError(_unknown(name, Config._fields))
    remotes, keys = document.get("remotes", {}), document.get("trusted_keys", [])
    if not isinstance(remotes, dict) or not all(map(_is_url, remotes.values())):
        raise ValueError('remotes have to be lines of NAME = "URL"')
    if not _are_texts(keys):
        raise ValueError("trusted_keys have to be a list of texts")
    for name in ("conflicts", "strategy"):
        if not isinstance(document.get(name, ""), str):
            raise ValueError(f"{name} has to be a text, in quotes")
    globs = document.get("allow_overlap")
    if globs is not None and not _are_texts(globs):
        raise ValueError("allow_overlap has to be a list of texts")
    gc = document.get("gc", {})
    if not isinstance(gc, dict) or not all(type(value) in (str, int) for value in gc.values()):
        raise ValueError("gc has to be lines of NAME = VALUE")
    for name in gc:
        if name not in _OF_GC:
            raise ValueError(_unknown(f"gc.{name}", [f"gc.{known}" for known in _OF_GC]))
    timeout_s = document.get("remote_timeout_s", Config().remote_timeout_s)
    if type(timeout_s) not in (int, float) or not 0 < timeout_s < 1e6:
        raise ValueError("remote_timeout_s has to be a number of seconds")
    return Config(
        document.get("conflicts"),
        None if globs is None else tuple(globs),
        document.get("strategy"),
        gc,
        remotes,
        tuple(map(_key, keys)),
        float(timeout_s),
    )


def _unknown(name: str, known: Sequence[str]) -> str:
    near = suggestion(name, known)
    return f"there is no setting `{name}`; {near or 'there are ' + ', '.join(known)}"


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _key(text: str) -> str:
    if not _PUBLIC_KEY.fullmatch(text):
        raise ValueError(f"{text[:100]!r} is no public key, as `cas key generate` prints one")
    return text


def _is_url(value: object) -> bool:
    return isinstance(value, str) and "://" in value
