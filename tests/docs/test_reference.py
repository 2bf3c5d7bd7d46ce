"""docs/reference.md is complete and lists nothing else."""

from __future__ import annotations

import re
import subprocess

import cas
import mounter
from cas.errors import EXIT_CODE_MEANINGS, ExitCode
from cli.options.settings import SETTINGS
from tests.helpers import schemas
from tests.helpers.documents import DOCUMENTS
from tests.helpers.support import CAS

PAGE = DOCUMENTS["docs/reference.md"].read_text()


def _help() -> str:
    return subprocess.run([CAS, "--help"], capture_output=True, text=True, check=True).stdout


def test_commands_are_grouped_and_described_as_in_the_help() -> None:
    section = PAGE.partition("## Commands")[2].partition("\nAll take")[0]
    documented = re.findall(r"^(?:\*\*(.*)\*\*|\| `cas (.*)` \| (.*) \|)$", section, re.MULTILINE)

    wanted = []
    text = _help().partition("this message and exit.\n")[2].partition("Exit codes")[0]
    commands = schemas.commands()
    for title, name in re.findall(r"(?m)^(?:(\S.*):|  ([a-z-]+)  +\S.*)$", text):
        wanted += [(title, "", "")] if title else []
        wanted += [
            ("", full, command.get_short_help_str(100))
            for full, command in commands.items()
            if full.split()[0] == name
        ]
    assert documented == wanted


def test_exit_codes_agree_in_page_help_and_code() -> None:
    table = {int(c): m for c, m in re.findall(r"^\| (\d) \| (.*) \|$", PAGE, re.MULTILINE)}
    in_help = {int(c): m for c, m in re.findall(r"^ +(\d)  (\S.*)$", _help(), re.MULTILINE)}

    assert table == {code.value: meaning for code, meaning in EXIT_CODE_MEANINGS.items()}
    assert in_help == table
    assert set(EXIT_CODE_MEANINGS) == set(ExitCode)


def test_documented_variables_exist_and_are_complete() -> None:
    documented = set(re.findall(r"`(CAS_\w+)`", PAGE))

    assert documented == {setting.variable for setting in SETTINGS} | {"CAS_STORE", "CAS_LOG"}


def test_documented_public_names_are_complete() -> None:
    for package in (cas, mounter):
        _, _, rows = PAGE.partition(f"| of `{package.__name__}` | |\n")
        rows = rows.partition("\n\n")[0]
        names = set(re.findall(r"`(\w+)`", rows))
        of_store = {name for name in names - set(package.__all__) if hasattr(cas.Store, name)}
        assert names - of_store == set(package.__all__)
