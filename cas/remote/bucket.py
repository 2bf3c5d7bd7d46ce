"""The object store, by obstore (https://developmentseed.org/obstore), an optional dependency.

A process that was forked from one that has used it hangs in the first call (obstore 0.12); so it is
used in processes of its own only, see `cas.remote.processes`.
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

_RETRIES = 10
_BREAKS = 3
_LONGEST_S = 3600
_PIECE = 1 << 16
"""How many bytes have to come for a sign of life."""
_Answer = TypeVar("_Answer")
_DENIED = ("PermissionDeniedError", "UnauthenticatedError")
JOBS = 32
"""How many requests there are at once, if nothing else is said."""


class NoRemotes(CasError):
    """What speaks to object stores is an extra."""

    def __init__(self) -> None:
        super().__init__(
            "remotes need a package that is not installed",
            hint="install the extra that brings it: pip install 'sysroot-cas[remote]'",
        )


class RemoteFailed(CasError):
    """The remote does not do what it was asked for."""


class BrokenOff(RemoteFailed):
    """An answer came in part."""


class NoRanges(RemoteFailed):
    """The server gives no parts, so that it cannot be asked for what is lacking of an answer."""


class RemoteStalled(RemoteFailed):
    """Nothing came from the remote for as long as it may take."""

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__(
            f"nothing came from {url} for {timeout_s:g} s",
            hint="is it reachable? a slow one needs fewer --jobs or a larger --timeout",
        )


class RemoteConfig(NamedTuple):
    """A remote: its URL, what obstore is to be told besides, and how long (seconds) to wait.

    `jobs` is how many requests there are at once, of `at_once` bytes together.
    """

    url: str
    options: Mapping[str, str] = {}
    timeout_s: float = 60.0
    jobs: int = JOBS
    at_once: int = 1 << 26

    @property
    def is_read_only(self) -> bool:
        """Whether it is a mirror by HTTP, which takes nothing."""
        return self.url.startswith(("http://", "https://"))


class ObjectStore:
    """What is at a remote, by keys."""

    def __init__(self, remote: RemoteConfig, *, create: bool = False) -> None:
        """Get ready; nothing is asked yet. With `create`, make a directory that is missing.

        Raises NoRemotes, InputRefused.
        """
        try:
            import obstore
            from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
            from obstore.store import HTTPStore, from_url
        except ImportError as error:
            raise NoRemotes from error
        self._obstore, self._base = obstore, BaseError
        self._other = AlreadyExistsError, PreconditionError
        self.remote = remote
        self.heard = time.monotonic()
        second = datetime.timedelta(seconds=1)
        options: dict[str, Any] = dict(remote.options)
        if remote.url.startswith("file:"):
            options |= {"mkdir": create}
        else:
            # One attempt is given up early enough for another one. As long as something comes, it
            # goes on: who waits for it watches that.
            options["client_options"] = {
                "timeout": _LONGEST_S * second,
                "read_timeout": remote.timeout_s / 3 * second,
                "connect_timeout": min(remote.timeout_s / 3, 10) * second,
                "allow_http": True,  # whoever gives an address of http: wants it
            }
            options["retry_config"] = {
                "max_retries": _RETRIES,
                "backoff": {"max_backoff": 2 * second},
                "retry_timeout": remote.timeout_s * second,
            }
        try:
            open_url = HTTPStore.from_url if remote.is_read_only else from_url
            self._store: Any = open_url(remote.url.rstrip("/"), **options)
        except (BaseError, ValueError, OSError) as error:
            said = _said(str(error))
            if remote.url.startswith("file:"):
                what = "there is no such directory" if "canonicalize" in said else said
                raise RemoteFailed(
                    f"{remote.url}: {what}", hint="is it mounted, and may this user write there?"
                ) from error
            raise InputRefused(
                f"{remote.url} is no remote: {said}",
                hint="give s3://BUCKET/PREFIX, gs://…, az://…, https://… or file:///DIR",
            ) from error

    def get(self, key: str, at_most: int) -> bytes | None:
        """Return what is at a key; None if there is nothing, or more than so many bytes.

        Raises RemoteFailed.
        """
        return self.look(key, at_most)[0]

    def look(self, key: str, at_most: int) -> tuple[bytes | None, str | None]:
        """Return what `get` does, and the tag of what that is, if there is one."""
        return _again(lambda: self._look(key, at_most), BrokenOff, NoRanges)

    def _look(
        self, key: str, at_most: int, start: int | None = None
    ) -> tuple[bytes | None, str | None]:
        """Do what `look` does; with a `start`, return up to so many bytes from there."""
        options: Any = {} if start is None else {"range": (start, start + at_most)}
        with self._asking(key):
            found = self._obstore.get(self._store, key, options=options)
            if start is not None or found.meta["size"] <= at_most:
                data = self._received(found.stream(min_chunk_size=_PIECE), at_most)
                return data, found.meta["e_tag"]
        return None, None

    def _received(self, pieces: Iterable[bytes], at_most: int) -> bytes | None:
        """Put together what comes, and note when something did; None if it is too much."""
        data = bytearray()
        for piece in pieces:
            data += piece
            self.heard = time.monotonic()
            if len(data) > at_most:
                return None
        return bytes(data)

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """Return some bytes of what is at a key, fewer at its end; None if there is nothing.

        Raises RemoteFailed.
        """
        if length == 0:
            return b""
        try:
            return _again(lambda: self._look(key, length, start), BrokenOff)[0]
        except RemoteFailed as error:  # it is too short, or the server gives no ranges
            if "range" not in str(error.__cause__).lower():
                raise
            whole = self.get(key, LARGEST_BLOB)
            return None if whole is None else whole[start : start + length]

    def put(self, key: str, data: bytes) -> None:
        """Write what is at a key, all at once. Raises RemoteFailed."""
        self._put(key, data, "overwrite")

    def create(self, key: str, data: bytes) -> bool:
        """Write what is at a key, if nothing is; tell whether that was so. Raises RemoteFailed.

        Of two that do this at once, both may be told so by a store that is not exact about it.
        """
        return self._put(key, data, "create")

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """Write over what has a tag; tell whether that was there still. Raises RemoteFailed.

        A directory does not know tags, and is written to anyway; and so is a server that says so.
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
            with self._asking(key, writing=True):
                self._obstore.put(self._store, key, data, mode=mode, use_multipart=False)
        except FileExistsError:
            return False
        return True

    def written_s(self, key: str) -> float | None:
        """Return when what is at a key was written, in seconds since 1970. Raises RemoteFailed."""
        with self._asking(key):
            moment: datetime.datetime = self._obstore.head(self._store, key)["last_modified"]
            return moment.timestamp()
        return None

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below a prefix. Raises RemoteFailed."""
        return _again(lambda: self._keys(prefix), BrokenOff)

    def _keys(self, prefix: str) -> list[str]:
        with self._asking(prefix):
            return [one["path"] for some in self._obstore.list(self._store, prefix) for one in some]
        return []

    @contextlib.contextmanager
    def _asking(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """Raise what goes wrong as a sentence; that nothing is at the key is not wrong."""
        try:
            yield
        except self._other as error:
            raise FileExistsError from error
        except (self._base, OSError, NotImplementedError) as error:
            if writing or not self._is_absent(error):
                self._fail(error, key)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust; it is no Exception
                raise
            self._fail(error, key)

    def _is_absent(self, error: Exception) -> bool:
        """Tell whether an error says that nothing is there."""
        if isinstance(error, FileNotFoundError):
            return "NoSuchBucket" not in str(error)
        if "status code: 410" in str(error):
            return True
        denied = type(error).__name__ == "PermissionDeniedError"
        # A web server that does not list may say so of what is not there.
        return "Not a directory" in str(error) or (denied and self.remote.is_read_only)

    def _fail(self, error: BaseException, key: str) -> NoReturn:
        text = str(error)
        what, hint = _said(text) or type(error).__name__, None
        for sign, found, advice in _KNOWN:
            if sign in text:
                what, hint = found or what, advice
                break
        else:
            if type(error).__name__ in _DENIED:
                hint = "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …)"
            elif isinstance(error, NotImplementedError):
                what, hint = "it cannot do that", "a mirror by HTTP tells only of exact IDs"
        said = _printable(f"{self.remote.url}: {what} (at {key})")
        kind = next((kind for sign, kind in _KINDS if sign in text), RemoteFailed)
        raise kind(said, hint=hint) from error


def _again(ask: Callable[[], _Answer], *broken: type[RemoteFailed]) -> _Answer:
    """Ask, and once more and again for some errors, which say that the answer broke off.

    obstore asks for what is lacking, but only where the server has ETags and ranges.
    """
    for _ in range(_BREAKS):
        with contextlib.suppress(*broken):
            return ask()
    return ask()


_KINDS = (("response body error", BrokenOff), ("Range request not supported", NoRanges))
_KNOWN = (
    ("NoSuchBucket", "there is no such bucket", "make it, or correct the URL"),
    ("RequestTimeTooSkewed", "its clock and this one differ", "set the clock (`timedatectl`)"),
    ("No space left on device", None, "the disk is full there"),
    ("error sending request", "no connection", "is it running, and the address right?"),
    ("operation timed out", "it does not answer", "is it running, and the address right?"),
    ("response body error", "the connection broke", "a slow one needs a larger --timeout"),
    ("Permission denied", None, "those who share it need a common group, and umask 002"),
)
"""What is in an error's text, what that means (None: what is said there), and what to do."""


def _said(text: str) -> str:
    """Return what obstore's text says of an error: what the server said, or its first line."""
    if found := re.search(r"<Code>(.*?)</Code>(?:\s*<Message>(.*?)</Message>)?", text, re.DOTALL):
        return ": ".join(part for part in found.groups() if part)[:300]
    if found := re.search(r"status code: (\d+[^:\n]*)", text):
        return found[1]
    return text.split("\n")[0][:300].strip()


def _printable(text: str) -> str:
    """Return a server's text without what would do something to a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
