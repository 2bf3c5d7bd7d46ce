"""Writing the contents of a tree to a remote: small ones in packs, large ones in segments."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from cas.content.digest import hash_bytes
from cas.content.read_tree import check_content, contents_of, read_content
from cas.model.manifest import Digest, Manifest
from cas.remote.object_keys import PACK, SEGMENT, SMALL, pack_key, segment_key, segments
from cas.remote.object_store import ObjectStore
from cas.remote.requests import RequestPool
from cas.system.compression import compress


class TreeUpload:
    """Uploads the contents of one tree.

    `packs` are then the packs for its tree file: names, and lengths of the contents; `blobs` are
    the running requests, which return the numbers of bytes sent. `is_fresh` returns whether an
    object can be relied on; `on_bytes` is called with numbers of further bytes.
    """

    def __init__(
        self,
        bucket: ObjectStore,
        requests: RequestPool,
        is_fresh: Callable[[str], bool],
        on_bytes: Callable[[int], None],
    ) -> None:
        self._bucket, self._requests, self._is_fresh = bucket, requests, is_fresh
        self._on_bytes = on_bytes
        self._seen = set[Digest]()
        self._frames: list[bytes] = []
        self._size = 0
        self.packs: list[tuple[Digest, list[int]]] = []
        self.blobs: list[Future[int]] = []

    def send(self, manifest: Manifest, layer: bytes) -> None:
        """Start the uploads of all contents of a tree, which are read and checked here.

        Raises StoreDamaged, RemoteStalled, OSError.
        """
        for entry, fd in contents_of(manifest, layer):
            if entry.digest is None or entry.digest in self._seen:
                continue
            self._seen.add(entry.digest)
            if entry.size < SMALL:
                self._pack(read_content(entry, fd))
                continue
            check_content(entry, fd)
            for number, size in enumerate(segments(entry.size)):
                key = segment_key(entry.digest, number)
                own = os.dup(fd)  # `fd` is closed before the request runs
                work = partial(self._send_segment, key, own, number * SEGMENT, size)
                self.blobs.append(self._requests.begin(work, size))
                self._on_bytes(size)
        self._end_pack()

    def _pack(self, content: bytes) -> None:
        frame = compress(content)
        self._frames.append(frame)
        self._size += len(frame)
        if self._size >= PACK:
            self._end_pack()

    def _end_pack(self) -> None:
        if self._frames:
            pack = b"".join(self._frames)
            name = hash_bytes(pack)
            self.packs.append((name, list(map(len, self._frames))))
            self._frames, self._size = [], 0
            work = partial(self._send, pack_key(name), pack)
            self.blobs.append(self._requests.begin(work, len(pack)))
            self._on_bytes(len(pack))

    def _send_segment(self, key: str, fd: int, start: int, size: int) -> int:
        try:
            return 0 if self._is_fresh(key) else self._send(key, compress(_read(fd, start, size)))
        finally:
            os.close(fd)

    def _send(self, key: str, data: bytes) -> int:
        self._bucket.put(key, data)
        return len(data)


def _read(fd: int, start: int, size: int) -> bytes:
    """Read a part of a file; pread(2) may return less than requested."""
    data = b""
    while len(data) < size and (more := os.pread(fd, size - len(data), start + len(data))):
        data += more
    return data
