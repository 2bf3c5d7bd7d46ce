"""What the commands share that speak to remotes: which, with what credentials, and --remote."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar
from urllib.parse import urlsplit

import click

from cas.config import Config
from cas.errors import CasError, InputRefused, hint_for
from cas.model.signature import BadSignature, Signature
from cas.remote.object_store import JOBS, NoRemotes, RemoteConfig
from cli.options.settings import config_of
from cli.output.printing import note
from cli.output.progress import progress
from cli.output.quantities import seconds

if TYPE_CHECKING:
    from cas.model.artifact import Artifact
    from cas.remote.results import Pulled, Pushed
    from cas.store import Store

_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "http", "https", "file")
_AWS_NAMES = {
    "aws_access_key_id": "aws_access_key_id",
    "aws_secret_access_key": "aws_secret_access_key",
    "aws_session_token": "aws_session_token",
    "region": "aws_region",
    "endpoint_url": "aws_endpoint_url",
}
"""What AWS calls a setting in its files, and what obstore calls it."""
_PLACES = ("aws_region", "aws_endpoint_url")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Transfer(TypedDict):
    """What the options of `transfer_options` said."""

    jobs: int
    timeout: float | None


def transfer_options(function: _Function) -> _Function:
    """Add --jobs and --timeout; the command gets them as keywords, see Transfer."""
    function = click.option(
        "--timeout",
        type=seconds,
        metavar="S",
        help="Give up when nothing comes for S seconds (60, or config.toml's).",
    )(function)
    return click.option(
        "--jobs",
        type=click.IntRange(1, 256),
        default=JOBS,
        show_default=True,
        help="How many requests there are at once.",
    )(function)


def remote_of(config: Config, text: str, how: Transfer | None = None) -> RemoteConfig:
    """Return the remote that a URL or a name of the configuration stands for.

    Raises InputRefused, OSError.
    """
    url = config.remotes.get(text, text)
    if "://" not in url:
        known = ", ".join(sorted(config.remotes)) or "none"
        raise InputRefused(
            f"{text} is no URL, and not the name of a remote",
            hint=f"give s3://BUCKET/PREFIX or the like; names in the store's config.toml: {known}",
        )
    try:
        parts = urlsplit(url)
        refused = parts.scheme.lower() not in _SCHEMES or bool(parts.query + parts.fragment)
        refused = refused or parts.username is not None or not parts.netloc + parts.path.strip("/")
    except ValueError:
        refused = True
    if refused:
        raise InputRefused(
            f"{url.rpartition('@')[2]} is not a remote",
            hint="give s3://BUCKET/PREFIX, gs://…, az://…, https://… or file:///DIR, without "
            "credentials, which come from the environment",
        )
    url = f"{parts.scheme.lower()}:{url.partition(':')[2]}"
    timeout_s = (how and how["timeout"]) or config.remote_timeout_s
    options = _aws_options() if url.startswith("s3") else {}
    return RemoteConfig(url, options, timeout_s, how["jobs"] if how else JOBS)


def _aws_options() -> dict[str, str]:
    """Return what AWS's files say, as far as the environment, which obstore reads, does not."""
    import configparser

    parser = configparser.RawConfigParser()
    profile = os.environ.get("AWS_PROFILE", "default")
    for variable, path in (
        ("AWS_CONFIG_FILE", "~/.aws/config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ):
        where = os.path.expanduser(os.environ.get(variable) or path)
        try:
            parser.read(where)
        except (configparser.Error, ValueError) as error:
            raise InputRefused(f"{where}: {str(error).splitlines()[0]}") from error
    found: dict[str, str] = {}
    for section in (f"profile {profile}", profile):
        if parser.has_section(section):
            found |= {
                ours: parser.get(section, theirs)
                for theirs, ours in _AWS_NAMES.items()
                if parser.has_option(section, theirs)
            }
    if "AWS_ACCESS_KEY_ID" in os.environ:
        found = {name: found[name] for name in _PLACES if name in found}
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        if name in os.environ:
            _check_address(name, os.environ[name])
    if "AWS_ENDPOINT_URL_S3" in os.environ:
        found["aws_endpoint_url"] = os.environ["AWS_ENDPOINT_URL_S3"]
    elif "AWS_ENDPOINT_URL" in os.environ:
        found.pop("aws_endpoint_url", None)
    if os.environ.keys() & {"AWS_REGION", "AWS_DEFAULT_REGION"}:
        found.pop("aws_region", None)
    if "aws_endpoint_url" in found:
        _check_address("endpoint_url", found["aws_endpoint_url"])
    return found


def _check_address(name: str, value: str) -> None:
    """Raise InputRefused for an address that obstore would stumble over."""
    try:
        parts = urlsplit(value)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not re.fullmatch(r"[!-~]+", value):
        raise InputRefused(
            f"{name} is {value[:100]!r}, no address", hint="give http:// or https://, and a host"
        )


def pull_missing(ctx: click.Context, store: Store, remote: str, names: Iterable[str]) -> None:
    """Pull those of `names` that are whole IDs and missing here, as far as it can be.

    What cannot be had is told, and is no error: a build goes on as with an empty cache. Raises
    InputRefused, BadConfig, OSError.
    """
    config = config_of(ctx)
    chosen = remote_of(config, remote)
    missing = [s for s in map(_whole, names) if s is not None and store.find(s) is None]
    if not missing:
        return
    from cas.remote.processes import pull_from

    done: list[Pulled] = []
    total = 0
    with _told("not pulled"), progress("Pulling") as shown:

        def moved(size: int) -> None:
            nonlocal total
            total += size
            shown.update(0, size=total)

        pull_from(store, chosen, config.trusted_keys, missing, done.append, moved)
    for one in done:
        _tell(one)


def to_push(ctx: click.Context, remote: str, key: str | None) -> Callable[[Store, Artifact], str]:
    """Return what pushes an artifact, signed with the key in the file `key`, if it can be.

    That it cannot is told, and is no error: it is stored. What pushes returns what became of it in
    a word, which is "failed" if the remote could not be used. Raises InputRefused, NoRemotes,
    BadKey, BadConfig, OSError.
    """
    from cas.remote.processes import push_to, refuse_read_only
    from cas.remote.push import PushOptions
    from cas.remote.signing import read_key

    config = config_of(ctx)
    chosen = remote_of(config, remote)
    refuse_read_only(chosen)
    terms = PushOptions(None if key is None else read_key(key), trusted=config.trusted_keys)

    def push(store: Store, artifact: Artifact) -> str:
        done: list[Pushed] = []
        with _told("not pushed"):
            push_to(store, chosen, terms, [artifact], done.append)
        for one in done:
            _tell(one)
        return done[0].outcome.value if done else "failed"

    return push


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell what goes wrong, but for mistakes in what was asked for, which are raised."""
    try:
        yield
    except (InputRefused, NoRemotes):
        raise
    except (CasError, OSError) as error:
        said = error.message if isinstance(error, CasError) else error.strerror or str(error)
        hint = error.hint if isinstance(error, CasError) else hint_for(error)
        note(f"{what}: {said}{f' ({hint})' if hint else ''}")


def _tell(one: Pulled | Pushed) -> None:
    if one.why:
        note(f"{one.signature} in the remote: {one.why}")


def _whole(name: str) -> Signature | None:
    """Return the signature that a name is, with or without a priority; None if it is none."""
    try:
        return Signature.parse(name.partition("@")[0])
    except BadSignature:
        return None
