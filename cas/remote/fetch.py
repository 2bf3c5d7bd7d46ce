"""What has to be fetched of a tree, and making objects of that."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from cas.content.objects import ObjectKey, Objects
from cas.model.manifest import Digest
from cas.put.ingest import ingest_stream
from cas.put.journal import Journal
from cas.put.scan_result import ScanResult
from cas.remote.object_keys import SMALL, pack_key, segment_key, segments
from cas.remote.results import Outcome
from cas.remote.tree_file import BlobInfo, Packed, TreeFile
from cas.system.compression import Unreadable, decompress
from cas.system.text import quoted

_AT_ONCE = 1 << 20
_GAP = 1 << 16
"""Bytes that are fetched rather than asking once more for what comes after them."""


class NotAvailable(Exception):
    """An artifact cannot be had from the remote; `why` says it to a person."""

    def __init__(self, outcome: Outcome, why: str = "") -> None:
        super().__init__(why)
        self.outcome = outcome
        self.why = why


class Download(NamedTuple):
    """Bytes to fetch, some `length`, the `whole` of what is at a key or what begins at `start`.

    They hold `contents`, which begin after `start`; or a segment of the large content `digest`.
    """

    key: str
    whole: bool
    start: int
    length: int
    contents: tuple[Packed, ...] = ()
    digest: Digest | None = None


Fetched = tuple[Download, bytes | None]


class MissingParts(NamedTuple):
    """What is needed of a tree: `blobs` have to be fetched.

    `incomplete` are contents that are there with the other executable bit only, or as one of two
    objects.
    """

    blobs: list[Download]
    incomplete: list[Digest]


def needed(tree: TreeFile, objects: Objects) -> MissingParts:
    """Find out what is needed of a tree.

    Raises NotAvailable if there is no room, or a size is not that of the content; OSError.
    """
    lacking: dict[Digest, BlobInfo] = {}
    incomplete: list[Digest] = []
    for digest, content in tree.contents.items():
        there = [bit for bit in (False, True) if objects.usable(ObjectKey(digest, bit))]
        if there and objects.size(ObjectKey(digest, there[0])) not in (None, content.size):
            raise _damaged(content)
        if not there:
            lacking[digest] = content
        if not content.executable <= set(there) and (there or len(content.executable) > 1):
            incomplete.append(digest)
    size = sum(content.size for content in lacking.values())
    if size > objects.free_space():
        raise NotAvailable(Outcome.REFUSED, f"it needs {size} bytes, more than there is room for")
    blobs: list[Download] = []
    for pack, packed in tree.packs:
        blobs += _parts(pack, packed, lacking)
    for digest, content in lacking.items():
        if content.size >= SMALL:
            blobs += [
                Download(segment_key(digest, number), True, 0, size, digest=digest)
                for number, size in enumerate(segments(content.size))
            ]
    return MissingParts(blobs, incomplete)


def _parts(
    pack: Digest, contents: list[Packed], lacking: dict[Digest, BlobInfo]
) -> Iterator[Download]:
    """Yield a pack, or those parts of it that hold what is lacking."""
    wanted = [content for content in contents if content.digest in lacking]
    if not wanted:
        return
    key = pack_key(pack)
    if 2 * sum(content.length for content in wanted) >= contents[-1].start + contents[-1].length:
        yield Download(key, True, 0, contents[-1].start + contents[-1].length, tuple(wanted))
        return
    part: list[Packed] = []
    for content in wanted:
        if part and content.start > part[-1].start + part[-1].length + _GAP:
            yield _part(key, part)
            part = []
        part.append(content)
    yield _part(key, part)


def _part(key: str, contents: list[Packed]) -> Download:
    start, last = contents[0].start, contents[-1]
    length = last.start + last.length - start
    moved = tuple(content._replace(start=content.start - start) for content in contents)
    return Download(key, False, start, length, moved)


class TreeDownload:
    """The source of an artifact's tree, of what is needed and was fetched `first`, or is `again`.

    `dropped` are the counts of its record; `fetched` is how many bytes were used.
    """

    def __init__(
        self,
        tree: TreeFile,
        dropped: Iterable[int],
        first: tuple[MissingParts, Iterator[Fetched]],
        again: Callable[[], tuple[MissingParts, Iterator[Fetched]]],
    ) -> None:
        self._tree, self._dropped, self._again = tree, dropped, again
        self._first: tuple[MissingParts, Iterator[Fetched]] | None = first
        self.fetched = 0

    def source(self, objects: Objects, journal: Journal) -> ScanResult:
        """Make objects of contents; see `cas.put.put.Source`.

        Raises NotAvailable, OSError, CasError.
        """
        (need, blobs), self._first = self._first or self._again(), None
        contents = self._tree.contents
        reading = ScanResult(nodes=self._tree.manifest.nodes)
        reading.recount()
        reading.set_id_bits, reading.xattrs, reading.owners = self._dropped
        making = partial(_make, objects, journal, reading)
        for blob, data in blobs:
            if blob.digest is not None:
                content = contents[blob.digest]
                making(blob.digest, content, self._segments(content, data, blobs))
                continue
            data = self._got(data)
            for packed in blob.contents:
                frame = data[packed.start : packed.start + packed.length]
                unpacked = iter([_unpack(frame, packed.size, contents[packed.digest])])
                making(packed.digest, contents[packed.digest], unpacked)
        for digest in need.incomplete:
            _complete(objects, journal, reading, digest, contents[digest])
        return reading

    def _segments(
        self, content: BlobInfo, first: bytes | None, rest: Iterator[Fetched]
    ) -> Iterator[bytes]:
        data = first
        for number, size in enumerate(segments(content.size)):
            if number > 0:
                _, data = next(rest)
            yield _unpack(self._got(data), size, content)

    def _got(self, data: bytes | None) -> bytes:
        if data is None:  # it is gone, or larger than it may be
            raise NotAvailable(Outcome.MISSING)
        self.fetched += len(data)
        return data


def _unpack(data: bytes, size: int, content: BlobInfo) -> bytes:
    try:
        unpacked = decompress(data, size)
    except Unreadable:
        unpacked = None
    if unpacked is None or len(unpacked) != size:
        raise _damaged(content)
    return unpacked


def _make(
    objects: Objects,
    journal: Journal,
    reading: ScanResult,
    digest: Digest,
    content: BlobInfo,
    parts: Iterator[bytes],
) -> None:
    """Make an object of a content. Raises NotAvailable if it is not what its digest says."""
    read = partial(_next, parts)
    executable = min(content.executable)
    key, size, new = ingest_stream(objects, read, content.path, journal, executable=executable)
    if key.digest != digest or size != content.size:
        raise _damaged(content)
    reading.count_new(size, new)


def _complete(
    objects: Objects, journal: Journal, reading: ScanResult, digest: Digest, content: BlobInfo
) -> None:
    """Make the object that is another one with or without the executable bit."""
    for executable in content.executable:
        other = ObjectKey(digest, not executable)
        if not objects.usable(ObjectKey(digest, executable)) and objects.usable(other):
            only = content._replace(executable={executable})
            _make(objects, journal, reading, digest, only, _read(objects, other))


def _next(parts: Iterator[bytes], _: int) -> bytes:
    return next(parts, b"")


def _read(objects: Objects, key: ObjectKey) -> Iterator[bytes]:
    """Yield what is in an object, some at a time."""
    fd = os.open(key.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=objects.store_fd)
    with open(fd, "rb", buffering=0) as file:
        while data := file.read(_AT_ONCE):
            yield data


def _damaged(content: BlobInfo) -> NotAvailable:
    return NotAvailable(Outcome.DAMAGED, f"the content of {quoted(content.path)} is another")
