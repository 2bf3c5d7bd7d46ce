"""The manual pages of the wheel, generated from the help texts by a build hook of hatchling."""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PLAIN = "\b\n"
"""Marks a paragraph that click does not refill."""


class Manual(BuildHookInterface[Any]):
    """Makes the pages of a wheel when it is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the pages, and add them to the wheel."""
        sys.path.insert(0, self.root)
        from cli.main import cas

        self._pages = tempfile.TemporaryDirectory()
        for name, text in pages(cas, "cas", self.metadata.version):
            path = Path(self._pages.name, f"{name}.1")
            path.write_text(text)
            build_data["shared_data"][str(path)] = f"share/man/man1/{path.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Delete the pages, which are in the wheel."""
        self._pages.cleanup()


def pages(
    command: click.Command, name: str, version: str, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the names and texts (roff, man(7)) of the pages of a command and its subcommands."""
    context = click.Context(command, parent, info_name=name, **command.context_settings)
    title = context.command_path.replace(" ", "-")
    yield title, "\n".join(_page(command, context, title, version)) + "\n"
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from pages(found, below, version, context)


def _page(
    command: click.Command, context: click.Context, title: str, version: str
) -> Iterator[str]:
    first, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
    rest, _, examples = rest.rpartition(_PLAIN) if _PLAIN in rest else (rest, "", "")
    yield f'.TH {title.upper()} 1 "" "sysroot-cas {version}"'
    yield ".SH NAME"
    yield f"{_text(title)} \\- {_text(first.rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(context.command_path)}"
    yield _text(" ".join(command.collect_usage_pieces(context)))
    if rest:
        yield ".SH DESCRIPTION"
        yield from _paragraphs(rest)
    yield ".SH OPTIONS"
    for option in command.get_params(context):
        if isinstance(option, click.Option) and (record := option.get_help_record(context)):
            yield f".TP\n.B {_text(record[0])}\n{_text(record[1])}"
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            help_ = "" if found is None else found.get_short_help_str(200)
            yield f".TP\n.BR {_text(f'{title}-{name}')} (1)\n{_text(help_)}"
    if examples:
        yield f".SH EXAMPLES\n.EX\n{_text(examples.strip())}\n.EE"
    if command.epilog:
        yield ".SH EXIT STATUS"
        yield from _paragraphs(inspect.cleandoc(command.epilog))
    if context.parent is not None:
        yield f".SH SEE ALSO\n.BR {_text(context.parent.command_path.replace(' ', '-'))} (1)"


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\n+", text.strip("\n"))):
        if number > 0:
            yield ".PP"
        plain = paragraph.removeprefix(_PLAIN)
        yield _text(plain) if plain == paragraph else f".nf\n{_text(plain)}\n.fi"


def _text(text: str) -> str:
    """Escape text for roff."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return re.sub(r"^(?=[.'])", "\\\\&", text, flags=re.MULTILINE)
