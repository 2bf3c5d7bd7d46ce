"""The cost of `cas run --trace`, beside the same task without it, and under strace(1)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmark.bench import CAS, Bench
from benchmark.measuring import Contender, Table, command, measure
from benchmark.using import COMPILED, PROGRAMS, options


def run(bench: Bench) -> Iterator[Table]:
    """Yield the table of tasks in a sysroot of all trees, each in a `cas run` of its own."""
    bench.store.sync()
    bench.compose()
    target, ids = bench.place / "target", bench.place / "ids"
    ids.write_text("".join(f"{name}\n" for name in bench.names))
    for name, text in PROGRAMS.items():
        (bench.place / name).write_text(f"{text}int main() {{ return 0; }}\n")
    before: list[str | Path] = [CAS, "--store", bench.place / "store", "run"]
    before += ["--conflicts", "ignore", "--sysroot-from", f"{target}={ids}"]
    strace: list[str | Path] = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        bench.place / "opened",
    ]
    strace += ["-e", "trace=open,openat,openat2,execve"]
    ways: dict[str, list[str | Path]] = {
        "cas run": [*before, "--"],
        "cas run --trace": [*before, "--trace", bench.place / "used.json", "--"],
        "cas run -- strace": [*before, "--", *strace],
    }
    contenders = [
        Contender(name, {job: partial(command, *words) for job, words in _jobs(bench, way).items()})
        for name, way in ways.items()
    ]
    rows = measure(contenders, bench.rounds)
    yield Table("trace", "A task whose opened files are recorded", bench.file_system, rows)


def _jobs(bench: Bench, run: list[str | Path]) -> dict[str, list[str | Path]]:
    place, target = bench.place, bench.place / "target"
    compiler: list[str | Path] = [*run, "g++", *options(target)]
    return {
        "true": [*run, "true"],
        "scan of includes": [*compiler, "-M", *(place / name for name in PROGRAMS)],
        "compile": [*compiler, "-c", place / COMPILED[0], "-o", place / "compiled.o"],
    }
