"""The object store of a remote, by obstore (https://developmentseed.org/obstore), an extra.

A process that is forked from one that has used obstore hangs in its first call (obstore 0.12), so
only the workers of `cas.remote.processes` use it.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn, TypeVar

from cas.errors import CasError, InputRefused
from cas.remote.object_keys import LARGEST_BLOB

_MAX_RETRIES = 10
_MAX_BROKEN_ANSWERS = 3
_MAX_REQUEST_S = 3600
_PIECE_BYTES = 1 << 16
"""So many bytes count as a sign of life."""
_Answer = TypeVar("_Answer")
_DENIED = ("PermissionDeniedError", "UnauthenticatedError")
JOBS = 32
"""The default number of concurrent requests."""


class NoRemotes(CasError):
    """The extra for remotes is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "remotes need a package that is not installed",
            hint="install the extra: pip install 'sysroot-cas[remote]'",
        )


class RemoteFailed(CasError):
    """A request to the remote failed."""


class BrokenOff(RemoteFailed):
    """An answer was truncated."""


class NoRanges(RemoteFailed):
    """The server does not support ranges, so a truncated answer cannot be resumed."""


class RemoteStalled(RemoteFailed):
    """The remote has been silent for longer than the timeout."""

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__(
            f"{url} did not answer for {timeout_s:g} s",
            hint="check the connection; for a slow one use fewer --jobs or a larger --timeout",
        )


class RemoteConfig(NamedTuple):
    """The configuration of a remote: its URL, options for obstore, and the timeout.

    `jobs` is the number of concurrent requests, and `at_once` the bytes of all of them together.
    """

    url: str
    options: Mapping[str, str] = {}
    timeout_s: float = 60.0
    jobs: int = JOBS
    at_once: int = 1 << 26

    @property
    def is_read_only(self) -> bool:
        """Whether it is an HTTP mirror, which cannot be written to."""
        return self.url.startswith(("http://", "https://"))


class ObjectStore:
    """A client for the objects of a remote."""

    def __init__(self, remote: RemoteConfig, *, create: bool = False) -> None:
        """Prepare the client without a request. With `create`, create a missing directory.

        Raises NoRemotes, InputRefused.
        """
        try:
            import obstore
            from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
            from obstore.store import HTTPStore, from_url
        except ImportError as error:
            raise NoRemotes from error
        self._obstore, self._base = obstore, BaseError
        self._conflicts = AlreadyExistsError, PreconditionError
        self.remote = remote
        self.last_data = time.monotonic()
        second = datetime.timedelta(seconds=1)
        options: dict[str, Any] = dict(remote.options)
        if remote.url.startswith("file:"):
            options |= {"mkdir": create}
        else:
            # An attempt ends early enough for another one. RequestPool gives up if no data arrives.
            options["client_options"] = {
                "timeout": _MAX_REQUEST_S * second,
                "read_timeout": remote.timeout_s / 3 * second,
                "connect_timeout": min(remote.timeout_s / 3, 10) * second,
                "allow_http": True,  # only used if the address has http:
            }
            options["retry_config"] = {
                "max_retries": _MAX_RETRIES,
                "backoff": {"max_backoff": 2 * second},
                "retry_timeout": remote.timeout_s * second,
            }
        try:
            open_url = HTTPStore.from_url if remote.is_read_only else from_url
            self._store: Any = open_url(remote.url.rstrip("/"), **options)
        except (BaseError, ValueError, OSError) as error:
            said = _server_message(str(error))
            if remote.url.startswith("file:"):
                problem = "there is no such directory" if "canonicalize" in said else said
                raise RemoteFailed(
                    f"{remote.url}: {problem}", hint="check that it is mounted and writable"
                ) from error
            raise InputRefused(
                f"{remote.url} is not a remote: {said}",
                hint="use s3://BUCKET/PREFIX, gs://…, az://…, https://… or file:///DIR",
            ) from error

    def get(self, key: str, max_bytes: int) -> bytes | None:
        """Return the object at a key; None if it does not exist or has more than `max_bytes`.

        Raises RemoteFailed.
        """
        return self.look(key, max_bytes)[0]

    def look(self, key: str, max_bytes: int) -> tuple[bytes | None, str | None]:
        """Return an object like `get`, and its ETag, or None."""
        return _retry_truncated(lambda: self._look(key, max_bytes), BrokenOff, NoRanges)

    def _look(
        self, key: str, max_bytes: int, start: int | None = None
    ) -> tuple[bytes | None, str | None]:
        """Make one attempt of `look`; with `start`, return up to `max_bytes` from there."""
        options: Any = {} if start is None else {"range": (start, start + max_bytes)}
        with self._errors_as_sentences(key):
            found = self._obstore.get(self._store, key, options=options)
            if start is not None or found.meta["size"] <= max_bytes:
                data = self._received(found.stream(min_chunk_size=_PIECE_BYTES), max_bytes)
                return data, found.meta["e_tag"]
        return None, None

    def _received(self, pieces: Iterable[bytes], max_bytes: int) -> bytes | None:
        """Join the pieces of an answer, and note the time of each; None if it is too large."""
        data = bytearray()
        for piece in pieces:
            data += piece
            self.last_data = time.monotonic()
            if len(data) > max_bytes:
                return None
        return bytes(data)

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """Return a range of the object at a key, shorter at its end; None if it does not exist.

        Raises RemoteFailed.
        """
        if length == 0:
            return b""
        try:
            return _retry_truncated(lambda: self._look(key, length, start), BrokenOff)[0]
        except RemoteFailed as error:  # the object is too short, or the server has no ranges
            if "range" not in str(error.__cause__).lower():
                raise
            whole = self.get(key, LARGEST_BLOB)
            return None if whole is None else whole[start : start + length]

    def put(self, key: str, data: bytes) -> None:
        """Write an object atomically. Raises RemoteFailed."""
        self._put(key, data, "overwrite")

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless it exists; return whether it was written. Raises RemoteFailed.

        Some stores are not exact: of two concurrent writers both may get True.
        """
        return self._put(key, data, "create")

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """Replace an object if it still has an ETag; return whether it had. Raises RemoteFailed.

        Directories, and servers without conditional writes, replace it unconditionally.
        """
        try:
            return self._put(key, data, "overwrite" if tag is None else {"e_tag": tag})
        except RemoteFailed as error:
            cause = error.__cause__
            if not isinstance(cause, NotImplementedError) and "status code: 501" not in str(cause):
                raise
        return self._put(key, data, "overwrite")

    def _put(self, key: str, data: bytes, mode: Any) -> bool:
        try:
            with self._errors_as_sentences(key, writing=True):
                self._obstore.put(self._store, key, data, mode=mode, use_multipart=False)
        except FileExistsError:
            return False
        return True

    def written_s(self, key: str) -> float | None:
        """Return the time of an object (seconds since 1970), or None. Raises RemoteFailed."""
        with self._errors_as_sentences(key):
            moment: datetime.datetime = self._obstore.head(self._store, key)["last_modified"]
            return moment.timestamp()
        return None

    def keys(self, prefix: str) -> list[str]:
        """Return all keys below a prefix. Raises RemoteFailed."""
        return _retry_truncated(lambda: self._keys(prefix), BrokenOff)

    def _keys(self, prefix: str) -> list[str]:
        with self._errors_as_sentences(prefix):
            return [
                item["path"] for page in self._obstore.list(self._store, prefix) for item in page
            ]
        return []

    @contextlib.contextmanager
    def _errors_as_sentences(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """Turn errors into RemoteFailed; a missing object is not an error."""
        try:
            yield
        except self._conflicts as error:
            raise FileExistsError from error
        except (self._base, OSError, NotImplementedError) as error:
            if writing or not self._is_absent(error):
                self._fail(error, key)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust; not an Exception
                raise
            self._fail(error, key)

    def _is_absent(self, error: Exception) -> bool:
        """Return whether an error means that the object does not exist."""
        if isinstance(error, FileNotFoundError):
            return "NoSuchBucket" not in str(error)
        if "status code: 410" in str(error):
            return True
        denied = type(error).__name__ == "PermissionDeniedError"
        # A web server without listings may deny access to a missing file.
        return "Not a directory" in str(error) or (denied and self.remote.is_read_only)

    def _fail(self, error: BaseException, key: str) -> NoReturn:
        text = str(error)
        problem, hint = _server_message(text) or type(error).__name__, None
        for sign, meaning, advice in _KNOWN_ERRORS:
            if sign in text:
                problem, hint = meaning or problem, advice
                break
        else:
            if type(error).__name__ in _DENIED:
                hint = "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …)"
            elif isinstance(error, NotImplementedError):
                problem, hint = "unsupported operation", "an HTTP mirror cannot list its IDs"
        message = _printable(f"{self.remote.url}: {problem} (at {key})")
        kind = next((kind for sign, kind in _KINDS if sign in text), RemoteFailed)
        raise kind(message, hint=hint) from error


def _retry_truncated(ask: Callable[[], _Answer], *broken: type[RemoteFailed]) -> _Answer:
    """Call `ask`, and retry after truncated answers, which the errors `broken` mean.

    obstore itself resumes an answer only if the server has ETags and ranges.
    """
    for _ in range(_MAX_BROKEN_ANSWERS):
        with contextlib.suppress(*broken):
            return ask()
    return ask()


_KINDS = (("response body error", BrokenOff), ("Range request not supported", NoRanges))
_KNOWN_ERRORS = (
    ("NoSuchBucket", "there is no such bucket", "create it, or correct the URL"),
    ("RequestTimeTooSkewed", "its clock differs from this one", "set the clock (`timedatectl`)"),
    ("No space left on device", None, "free space on the disk of the remote"),
    ("error sending request", "no connection", "check the address, and that the server is running"),
    (
        "operation timed out",
        "it does not answer",
        "check the address, and that the server is running",
    ),
    ("response body error", "the connection broke", "a slow one needs a larger --timeout"),
    ("Permission denied", None, "its users need a common group, and umask 002"),
)
"""A part of the error text, its meaning (None: the server's message), and a hint."""


def _server_message(text: str) -> str:
    """Return the server's message in an error text of obstore, or the first line."""
    if found := re.search(r"<Code>(.*?)</Code>(?:\s*<Message>(.*?)</Message>)?", text, re.DOTALL):
        return ": ".join(part for part in found.groups() if part)[:300]
    if found := re.search(r"status code: (\d+[^:\n]*)", text):
        return found[1]
    return text.split("\n")[0][:300].strip()


def _printable(text: str) -> str:
    """Return a text without characters that control a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
