"""The start-up of a command, beside an interpreter that imports click."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

from benchmark.bench import Bench
from benchmark.measuring import Contender, Table, command, measure

_TIMES = 10
"""Repetitions in each round, since one start is lost in noise."""

_IMPORTS = "import gc; gc.disable(); import cli.main, cli.commands.mount"
"""The imports of `cas mount`; the rest of its time is its work and the end of the interpreter."""


def run(bench: Bench) -> Iterator[Table]:
    """Yield the table of commands that do almost nothing."""
    bench.store.sync()
    target, one = bench.place / "target", bench.names[0]
    mount, umount = partial(bench.cas, "mount", target, one), partial(bench.cas, "umount", target)
    python = partial(command, sys.executable, "-c")
    contenders = [
        Contender("python -c 'import click'", {"time": partial(python, "import click")}),
        Contender("python -c pass", {"time": partial(python, "pass")}),
        Contender(
            "python -c 'import cli.main, cli.commands.mount'", {"time": partial(python, _IMPORTS)}
        ),
        Contender("cas --version", {"time": partial(bench.cas, "--version")}),
        Contender("cas has ID", {"time": partial(bench.cas, "has", one)}),
        Contender("cas run -- true", {"time": partial(bench.cas, "run", "--", "true")}),
        Contender("cas mount TARGET ID", {"time": mount}, after=umount),
        Contender("cas umount TARGET", {"time": umount}, before=mount),
    ]
    rows = measure(contenders, bench.rounds * _TIMES)
    yield Table("start", "A command that has next to nothing to do", bench.file_system, rows)
