"""Artifact links: `artifacts/` has a symbolic link from each ID to its layer.

People find layers through them, and the index can be rebuilt from them. The modification time of a
link is the time of last use of its artifact.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator

from cas.disk import last_use
from cas.disk.group_sharing import make_subdirectory
from cas.disk.layout import artifact_path, layer_path
from cas.disk.scratch import Scratch
from cas.model.artifact import Artifact
from cas.model.signature import BadSignature, Signature
from cas.system.directories import open_directory


def make_link(store_fd: int, artifact: Artifact, work: Scratch) -> None:
    """Create the link of an artifact, replacing an older one.

    The caller holds the store's exclusive lock. Raises OSError.
    """
    path = artifact_path(artifact.signature)
    os.symlink(b"../../" + layer_path(artifact.tree), b"link", dir_fd=work.fd)
    recipe = os.path.dirname(path)
    if not os.access(recipe, os.F_OK, dir_fd=store_fd):
        make_subdirectory(b"recipe", work.fd)
        os.rename(b"recipe", recipe, src_dir_fd=work.fd, dst_dir_fd=store_fd)
    os.rename(b"link", path, src_dir_fd=work.fd, dst_dir_fd=store_fd)


def remove_link(store_fd: int, signature: Signature) -> None:
    """Remove the link of an ID, and the directory of its recipe with the last link.

    Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(artifact_path(signature), dir_fd=store_fd)
    remove_empty_recipe(store_fd, signature.recipe)


def remove_empty_recipe(store_fd: int, recipe: str) -> None:
    """Remove the directory of a recipe if it is empty. Raises OSError."""
    try:
        os.rmdir(os.path.join(b"artifacts", os.fsencode(recipe)), dir_fd=store_fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def note_uses(store_fd: int, signatures: Iterable[Signature]) -> None:
    """Set the time of last use of artifacts to now; see `cas.disk.last_use`."""
    for signature in signatures:
        last_use.note_use(artifact_path(signature), store_fd)


def last_used_ns(store_fd: int, artifact: Artifact) -> int:
    """Return the time of last use or put of an artifact (nanoseconds since 1970).

    Without an accessible link, that is the time of the put. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        path = artifact_path(artifact.signature)
        used = os.stat(path, dir_fd=store_fd, follow_symlinks=False).st_mtime_ns
        return max(used, artifact.created_ns)
    return artifact.created_ns


def names_by_recipe(store_fd: int) -> Iterator[tuple[str, list[str]]]:
    """Yield each recipe with the names of its links, `RECIPE:REST`. Raises OSError."""
    with open_directory(b"artifacts", store_fd) as artifacts:
        for recipe in sorted(os.listdir(artifacts)):
            with contextlib.suppress(NotADirectoryError, FileNotFoundError):
                with open_directory(os.fsencode(recipe), artifacts) as directory:
                    names = os.listdir(directory)
                yield recipe, [f"{recipe}:{name}" for name in sorted(names)]


def parse_names(names: Iterable[str]) -> Iterator[Signature]:
    """Yield the IDs among the names of links."""
    for name in names:
        with contextlib.suppress(BadSignature):
            yield Signature.parse(name)
