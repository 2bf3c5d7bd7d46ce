"""Exports a stored tree as a directory, a tar archive or an sstate object."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import IO

from cas.content.read_tree import check_content, contents_of
from cas.errors import CasError, ExitCode, InputRefused
from cas.exchange.sstate import FIXMES, SstateMapping, is_object, signature_of
from cas.model.artifact import Artifact
from cas.model.manifest import Entry, Kind, Manifest
from cas.model.signature import Signature
from cas.put.tar_reader import ENCODING, ERRORS
from cas.store import Store
from cas.system.compression import SUFFIXES, compressing, is_archive
from cas.system.directories import DirCursor, open_directory
from cas.system.oserrors import adding_path
from cas.system.paths import is_within, temporary_name
from cas.system.progress import NO_PROGRESS, Progress
from cas.system.remove_tree import remove
from cas.system.signals import signals_blocked
from cas.system.text import quoted

Naming = Callable[[bytes], bytes | None]
"""Maps a path of the tree (b"" is its root) to its name in an archive; None omits it."""

_Entries = Iterator[tuple[Entry, int]]
_MAX_NAME_BYTES = 255
_OTHER_ARCHIVE = re.compile(rb"\.(tar(\.\w+)?|tgz|tbz2?|txz|zst|gz|bz2|xz|zip)$")


class AlreadyExists(CasError):
    """The target of an export exists."""

    exit_code = ExitCode.IN_USE

    def __init__(self, target: bytes) -> None:
        super().__init__(
            f"{quoted(target)} exists already", hint="choose another name, or delete it first"
        )


def export(
    store: Store,
    name: str,
    target: str | bytes | os.PathLike[str],
    progress: Progress = NO_PROGRESS,
) -> Artifact:
    """Write the tree of the artifact `name` to the new file or directory `target`.

    A target with the suffix of an archive becomes an archive, compressed according to the suffix; a
    target with the name of an sstate object gets its layout. Any other target becomes a directory
    of writable copies. Each content is checked. The target appears complete, or not at all.
    `progress` counts entries.

    Raises NoSuchSignature, AmbiguousSignature, AlreadyExists, StoreDamaged, InputRefused, NoZstd,
    OSError.
    """
    target = os.path.abspath(os.fsencode(target))
    _refuse_unfit(target, store)
    directory, last = os.path.split(target)
    temporary = temporary_name(last)
    purpose = f"export of {name}"
    with (
        store.compose([name], conflicts=None, purpose=purpose, counted=False) as composition,
        open_directory(directory) as parent,
        adding_path(target),
    ):
        (artifact,) = composition.artifacts
        manifest = store.manifest(artifact)
        entries = _counted(manifest, store.layer_path(artifact), progress)
        try:
            if is_archive(target):
                naming = _naming(artifact.signature, manifest, target)
                path = os.path.join(directory, temporary)
                with open(path, "xb") as file, compressing(file, target) as stream:
                    _write_archive(entries, stream, naming)
            else:
                os.mkdir(temporary, dir_fd=parent)
                with open_directory(temporary, parent) as root:
                    _write_directory(entries, root)
            _publish(temporary, last, parent, target)
        finally:
            with signals_blocked(), contextlib.suppress(FileNotFoundError):
                remove(temporary, parent)
    return artifact


def _refuse_unfit(target: bytes, store: Store) -> None:
    if os.path.lexists(target):
        raise AlreadyExists(target)
    if is_within(target, store.path):
        hint = "choose a path outside of the store"
        raise InputRefused(f"{quoted(target)} is in the store", hint=hint)
    name = os.path.basename(target)
    if len(name) > _MAX_NAME_BYTES:
        raise InputRefused(f"the name {quoted(name)} is too long", hint="choose a shorter name")
    if not is_archive(target) and _OTHER_ARCHIVE.search(target.lower()):
        raise InputRefused(
            f"{quoted(target)} has the suffix of an unsupported archive format",
            hint=f"use one of {', '.join(SUFFIXES)}, or another suffix for a directory",
        )


def _naming(signature: Signature, manifest: Manifest, target: bytes) -> Naming:
    """Return the names of paths in the archive `target`. Raises InputRefused."""
    if not is_object(target):
        return bytes
    if signature_of(target).recipe != signature.recipe:
        raise InputRefused(
            f"{quoted(target)} is the name of an sstate object of another recipe",
            hint=f"use a name for the recipe {signature.recipe}",
        )
    layout = SstateMapping(signature.recipe)
    if not layout.can_hold(manifest):
        raise InputRefused(
            f"{signature} has its own {quoted(FIXMES)}, which an sstate object cannot have",
            hint="export it to a directory, or to an archive with another name",
        )
    return layout.member


def _publish(temporary: bytes, last: bytes, parent: int, target: bytes) -> None:
    """Rename the finished export to its target. Raises AlreadyExists."""
    try:
        if is_archive(target):
            with contextlib.suppress(PermissionError, NotImplementedError):  # no hard links here
                os.link(temporary, last, src_dir_fd=parent, dst_dir_fd=parent)
                return
        os.rename(temporary, last, src_dir_fd=parent, dst_dir_fd=parent)
    except FileExistsError as error:
        raise AlreadyExists(target) from error
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise AlreadyExists(target) from error


def _counted(manifest: Manifest, layer: bytes, progress: Progress) -> _Entries:
    """Yield `contents_of` a layer, and report the progress."""
    size = 0
    for number, (entry, fd) in enumerate(contents_of(manifest, layer), 1):
        yield entry, fd
        size += entry.size
        progress.update(number, len(manifest.nodes), size)


def _write_directory(entries: _Entries, root_fd: int) -> None:
    """Write the tree into an empty directory. Raises StoreDamaged, OSError."""
    with DirCursor(root_fd) as cursor:
        for entry, fd in entries:
            parent, _, name = entry.path.rpartition(b"/")
            dir_fd = cursor.at(parent)
            if entry.kind is Kind.DIRECTORY:
                os.mkdir(name, dir_fd=dir_fd)
            elif entry.target is not None:
                os.symlink(entry.target, name, dir_fd=dir_fd)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                new = os.open(name, flags, 0o777 if entry.executable else 0o666, dir_fd=dir_fd)
                try:
                    check_content(entry, fd, copy_to=new)
                    written_ns = os.fstat(fd).st_mtime_ns
                    os.utime(new, ns=(written_ns, written_ns))
                finally:
                    os.close(new)


def _write_archive(entries: _Entries, stream: IO[bytes], naming: Naming) -> None:
    """Write the tree as a tar archive. Raises StoreDamaged, OSError."""
    with tarfile.open(
        fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, encoding=ENCODING, errors=ERRORS
    ) as archive:
        if root := naming(b""):
            archive.addfile(_member(Entry(root, Kind.DIRECTORY), root))
        for entry, fd in entries:
            name = naming(entry.path)
            if name is None:
                continue
            member = _member(entry, name)
            if entry.kind is not Kind.FILE:
                archive.addfile(member)
                continue
            check_content(entry, fd)
            member.mtime = int(os.fstat(fd).st_mtime)
            with open(fd, "rb", closefd=False) as content:
                archive.addfile(member, content)


def _member(entry: Entry, name: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name.decode(ENCODING, ERRORS))
    member.mode = 0o755 if entry.executable or entry.kind is Kind.DIRECTORY else 0o644
    member.size = entry.size
    if entry.kind is Kind.DIRECTORY:
        member.type = tarfile.DIRTYPE
    elif entry.target is not None:
        member.type, member.mode = tarfile.SYMTYPE, 0o777
        member.linkname = entry.target.decode(ENCODING, ERRORS)
    return member
