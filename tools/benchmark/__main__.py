"""The benchmark's command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmark import assemble, crowding, growing, sharing, starting, storing, tracing, using
from benchmark.bench import bench_in
from benchmark.charts import draw
from benchmark.measuring import Failed, Table, command, say
from benchmark.reporting import lines, machine, write_json

JOBS = {
    "assemble": assemble.run,
    "use": using.run,
    "store": storing.run,
    "many": crowding.run,
    "share": sharing.run,
    "grow": growing.run,
    "start": starting.run,
    "trace": tracing.run,
}

QUICK_JOBS = ("assemble", "use", "start")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description="Measure what a build does with sysroots, beside what people use for it.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{', '.join(QUICK_JOBS)}, once, in /var/tmp alone, without the slowest contenders",
    )
    parser.add_argument("--jobs", help=f"of {', '.join(JOBS)} (all)")
    parser.add_argument("--rounds", type=int, help="how often each is done (5)")
    parser.add_argument(
        "--directory", type=Path, action="append", help="measure there (/var/tmp, and a tmpfs)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there")
    parser.add_argument("--charts", type=Path, metavar="DIR", help="draw charts there")
    parser.add_argument("trees", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    jobs = QUICK_JOBS if arguments.quick else tuple(JOBS)
    arguments.jobs = jobs if arguments.jobs is None else arguments.jobs.split(",")
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.quick else 5
    unknown = set(arguments.jobs) - JOBS.keys()
    if unknown:
        parser.error(f"no such job: {', '.join(sorted(unknown))} (there are {', '.join(JOBS)})")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


@contextmanager
def _tmpfs() -> Iterator[Path]:
    with TemporaryDirectory(prefix="cas-bench-") as directory:
        command("mount", "-t", "tmpfs", "-o", "size=75%", "cas-bench", directory)
        try:
            yield Path(directory)
        finally:
            command("umount", directory)


def _measured(directory: Path, arguments: argparse.Namespace) -> Iterator[Table]:
    trees = sorted(arguments.trees.iterdir())
    with bench_in(directory, trees, arguments.rounds, quick=arguments.quick) as bench:
        for job in arguments.jobs:
            say(f"{job} on {bench.file_system}")
            for table in JOBS[job](bench):
                print("\n".join(lines(table)), flush=True)
                yield table


def main() -> int:
    """Run the jobs, and report; return the exit code."""
    arguments = _arguments()
    if os.geteuid() != 0:
        say("tools/bench mounts file systems and overlays, which needs root")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    print(", ".join(f"{key}: {value}" for key, value in machine().items()), flush=True)
    tables: list[Table] = []
    try:
        for directory in arguments.directory or [Path("/var/tmp")]:
            tables += _measured(directory, arguments)
        if not arguments.directory and not arguments.quick:
            with _tmpfs() as directory:
                tables += _measured(directory, arguments)
    except Failed as failure:
        say(f"tools/bench: {failure}")
        return 1
    if arguments.charts:
        for path in draw(tables, arguments.charts):
            say(f"drew {path}")
    if arguments.json:
        write_json(arguments.json, tables, jobs=arguments.jobs, quick=arguments.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
