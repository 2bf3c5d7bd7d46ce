"""Defaults of options from the environment and the configuration of a store."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import click

from cas.config import BadConfig, Config, config_path, read_config


class Setting(NamedTuple):
    """A setting: its `name` in the file, and its option and environment variable.

    `command` is a command that has the option.
    """

    name: str
    option: str
    variable: str
    command: str

    def of(self, config: Config) -> Any:
        """Return the value in a configuration, None if there is none."""
        table, _, name = self.name.rpartition(".")
        return config.gc.get(name) if table else getattr(config, name)

    def parameter(self, ctx: click.Context) -> click.Parameter:
        """Return the option of its command."""
        commands = ctx.find_root().command
        assert isinstance(commands, click.Group)
        command = commands.get_command(ctx, self.command)
        assert command is not None
        (option,) = (one for one in command.params if one.name == self.option)
        return option

    def check(self, option: click.Parameter, value: Any, ctx: click.Context) -> None:
        """Raise BadConfig if the value in the file is invalid for the option."""
        try:
            option.type_cast_value(ctx, value)
        except click.BadParameter as error:
            raise BadConfig(config_file(ctx), f"{self.name}: {error.message}") from error


SETTINGS = (
    Setting("conflicts", "conflicts", "CAS_CONFLICTS", "mount"),
    Setting("allow_overlap", "allow_overlap", "CAS_ALLOW_OVERLAP", "mount"),
    Setting("strategy", "strategy", "CAS_STRATEGY", "mount"),
    Setting("gc.max_age", "max_age", "CAS_GC_MAX_AGE", "gc"),
    Setting("gc.max_size", "max_size", "CAS_GC_MAX_SIZE", "gc"),
    Setting("gc.keep_last", "keep_last", "CAS_GC_KEEP_LAST", "gc"),
    Setting("gc.grace", "grace", "CAS_GC_GRACE", "gc"),
)
_BY_OPTION = {setting.option: setting for setting in SETTINGS}


def store_path(ctx: click.Context) -> str:
    """Return the path of the store that the options or the environment name."""
    return store_and_origin(ctx)[0]


def store_and_origin(ctx: click.Context) -> tuple[str, str]:
    """Return the path of the store, and its origin."""
    if chosen := ctx.find_root().obj:
        return str(chosen), "--store"
    if chosen := os.environ.get("CAS_STORE"):
        return chosen, "$CAS_STORE"
    cache = os.environ.get("XDG_CACHE_HOME")
    source = "$XDG_CACHE_HOME" if cache else "by default"
    return os.path.join(cache or os.path.expanduser("~/.cache"), "sysroot-cas"), source


def config_of(ctx: click.Context) -> Config:
    """Return the store's configuration, or the defaults. Raises BadConfig, OSError."""
    return read_config(_store(ctx))


def config_file(ctx: click.Context) -> bytes:
    """Return where the configuration of the store is, or would be."""
    return config_path(_store(ctx))


def _store(ctx: click.Context) -> bytes:
    return os.path.realpath(os.fsencode(store_path(ctx)))


def use_settings(ctx: click.Context) -> None:
    """Set the defaults of a command's options from the environment, else from the store.

    Raises BadConfig, OSError.
    """
    options = [one for one in ctx.command.params if one.name in _BY_OPTION]
    if not options:
        return
    defaults: dict[str, Any] = {}
    config = config_of(ctx)
    for option in options:
        setting = _BY_OPTION[str(option.name)]
        option.envvar = setting.variable
        if (value := setting.of(config)) is not None:
            setting.check(option, value, ctx)
            defaults[setting.option] = value
    ctx.default_map = defaults
