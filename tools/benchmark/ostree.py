"""ostree, driven by its command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.measuring import command, remove


class Repository:
    """A repository for an ordinary user's checkouts by hard links (`bare-user-only`)."""

    def __init__(self, path: Path, trees: Sequence[Path]) -> None:
        self._path = path
        self._branches = [(f"tree-{number}", tree) for number, tree in enumerate(trees)]

    def init(self) -> None:
        """Create an empty repository."""
        command("ostree", self._repository, "init", "--mode=bare-user-only")

    def commit(self) -> None:
        """Commit each tree to a branch of its own."""
        for branch, tree in self._branches:
            self._run("commit", "--fsync=false", f"--branch={branch}", f"--tree=dir={tree}")

    def fill(self) -> None:
        """Create the repository with all trees, if it does not exist."""
        if not self._path.exists():
            self.init()
            self.commit()

    def checkout(self, target: Path) -> None:
        """Link all trees into one directory."""
        for branch, _ in self._branches:
            self._run("checkout", "-U", "--union", "-H", branch, str(target))

    def fsck(self) -> None:
        """Verify everything."""
        self._run("fsck", "--quiet")

    def prune(self) -> None:
        """Delete all branches, and prune the repository."""
        for branch, _ in self._branches:
            self._run("refs", "--delete", branch)
        self._run("prune", "--refs-only")

    def delete(self) -> None:
        """Delete the repository."""
        remove(self._path)

    @property
    def _repository(self) -> str:
        return f"--repo={self._path}"

    def _run(self, *argv: str) -> None:
        command("ostree", self._repository, *argv)
