"""Storing the packages' trees, collecting them, and verifying what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmark import ostree
from benchmark.bench import Bench, signature_of
from benchmark.measuring import Contender, Table, command, measure, remove
from cas.store import Store

_PLAIN: Any = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
"""Borg asks before it opens an unencrypted repository."""
FIRST, AGAIN, CHANGED = "first", "again", "one file changed in each"


def run(bench: Bench) -> Iterator[Table]:
    """Yield the tables of storing, of verifying, and of collecting everything."""
    changed = bench.place / "changed"
    _copy(bench.trees, changed, how="-al")
    for tree in bench.trees:
        _change(changed / tree.name)
    later = [changed / tree.name for tree in bench.trees]
    rows = measure([*_storing(bench, later)], bench.rounds)
    yield Table("store", f"{len(bench.trees)} trees are stored", bench.file_system, rows)
    remove(changed)
    rows = measure([*_verifying(bench)], bench.rounds)
    yield Table("verify", "All that is stored is verified", bench.file_system, rows)
    rows = measure([*_collecting(bench)], bench.rounds)
    yield Table("collect", "All that is stored is deleted", bench.file_system, rows)


def _copy(trees: Sequence[Path], place: Path, *, how: str = "-a") -> None:
    place.mkdir(parents=True)
    command("cp", how, *trees, place)


def _change(tree: Path) -> None:
    """Change one file of a tree; trees that it was linked from keep their contents."""
    path = min(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data + b"\n")


def _storing(bench: Bench, later: Sequence[Path]) -> Iterator[Contender]:
    place, trees = bench.place / "repository", bench.trees
    gone = partial(remove, place)

    def steps(store: Callable[[Sequence[Path], int], None]) -> dict[str, Callable[[], None]]:
        return {
            FIRST: partial(store, trees, 0),
            AGAIN: partial(store, trees, 0),
            CHANGED: partial(store, later, 1),
        }

    yield Contender("Store.put", steps(partial(_put, place)), after=gone)
    if not bench.quick:
        yield Contender("cas put", steps(partial(_put_by_command, bench, place)), after=gone)
    moved = [place / "copy" / tree.name for tree in trees]
    yield Contender(
        "Store.put(move=True)",
        {FIRST: partial(_put, place / "store", moved, 0, move=True)},
        before=partial(_copy, trees, place / "copy"),
        after=gone,
    )
    copy = {FIRST: partial(_copy, trees, place)}
    yield Contender("cp -a", copy, after=gone)
    sums = {FIRST: partial(_hash, trees)}
    yield Contender("b3sum", sums)
    yield Contender("tar | zstd", steps(partial(_archive, place)), before=place.mkdir, after=gone)
    if bench.quick:
        return
    repository = ostree.Repository(place, trees)
    changed = ostree.Repository(place, later)
    commit = {FIRST: repository.commit, AGAIN: repository.commit, CHANGED: changed.commit}
    yield Contender("ostree commit", commit, before=repository.init, after=gone)
    yield Contender("git add", steps(partial(_git, place)), after=gone)
    init = partial(_init_borg, place)
    yield Contender("borg create", steps(partial(_borg, place)), before=init, after=gone)
    init = partial(command, "restic", "init", "-r", place, RESTIC_PASSWORD="none")
    yield Contender("restic backup", steps(partial(_restic, place)), before=init, after=gone)


def _put(store: Path, trees: Sequence[Path], number: int, *, move: bool = False) -> None:
    with Store(store, create=True) as opened:
        for tree in trees:
            opened.put(signature_of(tree, number), tree, move=move)


def _put_by_command(bench: Bench, store: Path, trees: Sequence[Path], number: int) -> None:
    for tree in trees:
        bench.cas("put", signature_of(tree, number), tree, store=store)


def _hash(places: Sequence[Path]) -> None:
    files = 'find "$@" -type f -print0 | xargs -0 b3sum --num-threads $(nproc)'
    command("sh", "-c", files, "sh", *places)


def _archive(place: Path, trees: Sequence[Path], number: int) -> None:
    for tree in trees:
        archive = place / f"{tree.name}-{number}.tar.zst"
        command("tar", "-C", tree, "-I", "zstd -T0 -3", "-cf", archive, ".")


def _git(place: Path, trees: Sequence[Path], number: int) -> None:
    work = trees[0].parent
    if not place.exists():
        command("git", "init", "-q", "--bare", place)
    command("git", f"--git-dir={place}", f"--work-tree={work}", "add", "-A", "-f", ".", cwd=work)


def _borg(place: Path, trees: Sequence[Path], number: int) -> None:
    name = f"{place}::{{now:%H%M%S%f}}"
    command("borg", "create", name, *trees, **_PLAIN)


def _init_borg(place: Path) -> None:
    command("borg", "init", "-e", "none", place)


def _fill_borg(place: Path, trees: Sequence[Path]) -> None:
    _init_borg(place)
    _borg(place, trees, 0)


def _restic(place: Path, trees: Sequence[Path], number: int) -> None:
    command("restic", "backup", "-q", "-r", place, *trees, RESTIC_PASSWORD="none")


def _verifying(bench: Bench) -> Iterator[Contender]:
    bench.store.sync()
    store = Path(bench.store.path.decode())
    listing = "%s %m %T@ %n\n"
    yield Contender("cas verify", {"time": partial(bench.cas, "verify")})
    yield Contender("b3sum", {"time": partial(_hash, [store / "objects"])})
    yield Contender("cas verify --quick", {"time": partial(bench.cas, "verify", "--quick")})
    yield Contender("find -printf", {"time": partial(command, "find", store, "-printf", listing)})
    if not bench.quick:
        repository = ostree.Repository(bench.place / "ostree", bench.trees)
        yield Contender("ostree fsck", {"time": repository.fsck}, before=repository.fill)
        borg = bench.place / "borg"
        check = {"time": partial(command, "borg", "check", "--verify-data", borg, **_PLAIN)}
        fill = partial(_fill_borg, borg, bench.trees)
        yield Contender("borg check --verify-data", check, before=fill, after=partial(remove, borg))


def _collecting(bench: Bench) -> Iterator[Contender]:
    bench.store.sync()
    store, copy = Path(bench.store.path.decode()), bench.place / "copy"
    fill, gone = partial(command, "cp", "-a", store, copy), partial(remove, copy)
    collect = ("gc", "--max-age", "0s", "--grace", "0s")
    ours = {"time": partial(bench.cas, *collect, store=copy)}
    yield Contender("cas gc", ours, before=fill, after=gone)
    yield Contender("rm -rf", {"time": gone}, before=fill)
    if bench.quick:
        return
    repository = ostree.Repository(bench.place / "ostree", bench.trees)
    prune = {"time": repository.prune}
    yield Contender("ostree prune", prune, before=repository.fill, after=repository.delete)
