"""The configuration of a store: `config.toml` in its directory, for all of its users."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cas.errors import CasError, ExitCode
from cas.system.debug_log import debug
from cas.system.files import read_file
from cas.system.text import quoted, suggestion

_NAME = b"config.toml"
_PUBLIC_KEY = re.compile(r"ed25519:[A-Za-z0-9+/]{43}=")
_MAX_TIMEOUT_S = 1e6
_GC_SETTINGS = ("max_age", "max_size", "keep_last", "grace")


class BadConfig(CasError):
    """The configuration of a store has an unknown setting or an invalid value."""

    exit_code = ExitCode.USAGE

    def __init__(self, path: bytes, reason: str) -> None:
        hint = "docs/configuration.md lists the settings"
        super().__init__(f"{quoted(path)}: {reason}", hint=hint)


class Config(NamedTuple):
    """The settings of a store.

    `remotes` maps names to URLs; `trusted_keys` are the public keys whose records are accepted.
    `remote_timeout_s` is how long (seconds) a remote may stay silent. The others are defaults of
    options, written as on the command line; None is unset.
    """

    conflicts: str | None = None
    allow_overlap: tuple[str, ...] | None = None
    strategy: str | None = None
    gc: Mapping[str, str | int] = {}
    remotes: Mapping[str, str] = {}
    trusted_keys: tuple[str, ...] = ()
    remote_timeout_s: float = 60.0


def config_path(store: bytes) -> bytes:
    """Return the path of the configuration of the store at the absolute path `store`."""
    return os.path.join(store, _NAME)


def read_config(store: bytes) -> Config:
    """Read the configuration of the store at the absolute path `store`; a missing file is empty.

    Raises BadConfig, OSError.
    """
    path = config_path(store)
    try:
        data = read_file(path)
        import tomllib  # most stores have no configuration, and need not load it

        config = _config(tomllib.loads(data.decode()))
    except FileNotFoundError:
        return Config()
    except ValueError as error:  # includes invalid TOML and invalid UTF-8
        raise BadConfig(path, str(error)) from error
    debug("read the configuration %s", quoted(path))
    return config


def _config(document: dict[str, Any]) -> Config:
    for name, value in document.items():
        if name not in _CHECKS:
            raise ValueError(_unknown(name, list(_CHECKS)))
        is_valid, expected = _CHECKS[name]
        if not is_valid(value):
            raise ValueError(f"{name} must be {expected}")
    for name in document.get("gc", {}):
        if name not in _GC_SETTINGS:
            raise ValueError(_unknown(f"gc.{name}", [f"gc.{known}" for known in _GC_SETTINGS]))
    for key in document.get("trusted_keys", []):
        if not _PUBLIC_KEY.fullmatch(key):
            raise ValueError(f"{key[:100]!r} is not a public key of `cas key generate`")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
    }
    if "remote_timeout_s" in values:
        values["remote_timeout_s"] = float(values["remote_timeout_s"])
    return Config(**values)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_urls(value: object) -> bool:
    return isinstance(value, dict) and all(_is_text(u) and "://" in u for u in value.values())


def _are_amounts(value: object) -> bool:
    return isinstance(value, dict) and all(type(v) in (str, int) for v in value.values())


def _is_timeout(value: object) -> bool:
    # type() and not isinstance(): true is an int, too
    return type(value) in (int, float) and 0 < value < _MAX_TIMEOUT_S  # type: ignore[operator]


_CHECKS: dict[str, tuple[Callable[[object], bool], str]] = {
    "conflicts": (_is_text, "a string"),
    "allow_overlap": (_are_texts, "a list of strings"),
    "strategy": (_is_text, "a string"),
    "gc": (_are_amounts, "a table of strings and whole numbers"),
    "remotes": (_are_urls, 'a table of NAME = "URL"'),
    "trusted_keys": (_are_texts, "a list of strings"),
    "remote_timeout_s": (_is_timeout, "a positive number of seconds"),
}


def _unknown(name: str, known: Sequence[str]) -> str:
    guess = suggestion(name, known)
    return f"there is no setting `{name}`; {guess or 'the settings are ' + ', '.join(known)}"
