"""Plans the downloads of a tree, and stores its contents as objects."""

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

_READ_BYTES = 1 << 20
_MAX_GAP_BYTES = 1 << 16
"""A gap of up to this size is downloaded, too, to save a request."""


class NotAvailable(Exception):
    """An artifact is not available from the remote; `why` is text for people."""

    def __init__(self, outcome: Outcome, why: str = "") -> None:
        super().__init__(why)
        self.outcome = outcome
        self.why = why


class Download(NamedTuple):
    """A download of `length` bytes: the `whole` object at a key, or a range from `start`.

    It has small `contents`, whose positions are relative to `start`, or a segment of the large
    content `digest`.
    """

    key: str
    whole: bool
    start: int
    length: int
    contents: tuple[Packed, ...] = ()
    digest: Digest | None = None


Fetched = tuple[Download, bytes | None]


class MissingParts(NamedTuple):
    """The missing parts of a tree: the `blobs` to download.

    `incomplete` are contents that are stored only with the other executable bit, or need both.
    """

    blobs: list[Download]
    incomplete: list[Digest]


def find_missing(tree: TreeFile, objects: Objects) -> MissingParts:
    """Return the parts of a tree that the store lacks.

    Raises NotAvailable (not enough disk space, or a wrong size), OSError.
    """
    lacking: dict[Digest, BlobInfo] = {}
    incomplete: list[Digest] = []
    for digest, content in tree.contents.items():
        stored = [bit for bit in (False, True) if objects.usable(ObjectKey(digest, bit))]
        if stored and objects.size(ObjectKey(digest, stored[0])) not in (None, content.size):
            raise _damaged(content)
        if not stored:
            lacking[digest] = content
        if not content.executable <= set(stored) and (stored or len(content.executable) > 1):
            incomplete.append(digest)
    size = sum(content.size for content in lacking.values())
    if size > objects.free_space():
        raise NotAvailable(Outcome.REFUSED, f"it needs {size} bytes, more than the free disk space")
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
    """Yield a download of a pack, or of the parts with missing contents."""
    wanted = [content for content in contents if content.digest in lacking]
    if not wanted:
        return
    key = pack_key(pack)
    if 2 * sum(content.length for content in wanted) >= contents[-1].start + contents[-1].length:
        yield Download(key, True, 0, contents[-1].start + contents[-1].length, tuple(wanted))
        return
    part: list[Packed] = []
    for content in wanted:
        if part and content.start > part[-1].start + part[-1].length + _MAX_GAP_BYTES:
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
    """Builds a tree from downloads: the prefetched ones first, then fresh ones on a retry.

    `first` are the prefetched downloads; `again` starts fresh ones. `dropped` are the counts of the
    record. `fetched` is the number of bytes used.
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
        """Store the downloaded contents as objects; see `cas.put.put.Source`.

        Raises NotAvailable, OSError, CasError.
        """
        (need, blobs), self._first = self._first or self._again(), None
        contents = self._tree.contents
        scan = ScanResult(nodes=self._tree.manifest.nodes)
        scan.recount()
        scan.set_id_bits, scan.xattrs, scan.owners = self._dropped
        store_content = partial(_store_content, objects, journal, scan)
        for blob, data in blobs:
            if blob.digest is not None:
                content = contents[blob.digest]
                store_content(blob.digest, content, self._segments(content, data, blobs))
                continue
            data = self._received(data)
            for packed in blob.contents:
                frame = data[packed.start : packed.start + packed.length]
                unpacked = iter([_unpack(frame, packed.size, contents[packed.digest])])
                store_content(packed.digest, contents[packed.digest], unpacked)
        for digest in need.incomplete:
            _store_other_bit(objects, journal, scan, digest, contents[digest])
        return scan

    def _segments(
        self, content: BlobInfo, first: bytes | None, rest: Iterator[Fetched]
    ) -> Iterator[bytes]:
        data = first
        for number, size in enumerate(segments(content.size)):
            if number > 0:
                _, data = next(rest)
            yield _unpack(self._received(data), size, content)

    def _received(self, data: bytes | None) -> bytes:
        if data is None:  # it is gone, or too large
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


def _store_content(
    objects: Objects,
    journal: Journal,
    scan: ScanResult,
    digest: Digest,
    content: BlobInfo,
    parts: Iterator[bytes],
) -> None:
    """Store a content as an object. Raises NotAvailable if it does not match its digest."""
    read = partial(_next, parts)
    executable = min(content.executable)
    key, size, new = ingest_stream(objects, read, content.path, journal, executable=executable)
    if key.digest != digest or size != content.size:
        raise _damaged(content)
    scan.count_new(size, new)


def _store_other_bit(
    objects: Objects, journal: Journal, scan: ScanResult, digest: Digest, content: BlobInfo
) -> None:
    """Store a content that exists with the other executable bit as a second object."""
    for executable in content.executable:
        other = ObjectKey(digest, not executable)
        if not objects.usable(ObjectKey(digest, executable)) and objects.usable(other):
            only = content._replace(executable={executable})
            _store_content(objects, journal, scan, digest, only, _read(objects, other))


def _next(parts: Iterator[bytes], _: int) -> bytes:
    return next(parts, b"")


def _read(objects: Objects, key: ObjectKey) -> Iterator[bytes]:
    """Yield the content of an object in pieces."""
    fd = os.open(key.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=objects.store_fd)
    with open(fd, "rb", buffering=0) as file:
        while data := file.read(_READ_BYTES):
            yield data


def _damaged(content: BlobInfo) -> NotAvailable:
    return NotAvailable(
        Outcome.DAMAGED, f"the content of {quoted(content.path)} does not match its digest"
    )
