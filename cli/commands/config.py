"""`cas config`: the settings and their origins."""

from __future__ import annotations

import os
from typing import Any

import click

from cas.config import Config
from cli.options.common import standard_options
from cli.options.settings import SETTINGS, Setting, config_file, config_of
from cli.output.printing import emit, table, text_of


@click.command("config")
@click.option("--show", is_flag=True, help="Show all settings (the default).")
@standard_options
def config_command(ctx: click.Context, show: bool, as_json: bool) -> None:
    """Show all settings, and where each is set.

    A setting comes from the environment, else from config.toml in the store, else from the
    built-in defaults. Options of a command override all three. The file is checked for errors.

    \b
    cas config --show
    CAS_STRATEGY=hardlink cas config
    """
    config = config_of(ctx)
    settings = [(setting.name, *_value_and_origin(ctx, setting, config)) for setting in SETTINGS]
    for name in ("trusted_keys", "remote_timeout_s"):
        value = getattr(config, name)
        settings.append((name, value, "file" if value != getattr(Config(), name) else "default"))
    settings += [(f"remotes.{name}", url, "file") for name, url in config.remotes.items()]
    where = config_file(ctx)
    document = {
        "path": os.fsdecode(where),
        "settings": [
            {"name": name, "value": value, "from": source} for name, value, source in settings
        ],
    }
    rows = [(name, text_of(_text(value)), source) for name, value, source in settings]
    emit(as_json, document, [f"file: {text_of(where)}", *table(("SETTING", "VALUE", "FROM"), rows)])


def _value_and_origin(ctx: click.Context, setting: Setting, config: Config) -> tuple[Any, str]:
    """Return the value of a setting as written, and its origin."""
    if value := os.environ.get(setting.variable):
        return value, setting.variable
    option, value = setting.parameter(ctx), setting.of(config)
    if value is None:
        return option.to_info_dict().get("default"), "default"
    setting.check(option, value, ctx)
    return value, "file"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
