"""Remotes on the command line: their names, options and credentials, pulls and pushes."""

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
"""The settings of obstore, by their names in the files of AWS."""
_LOCATION_SETTINGS = ("aws_region", "aws_endpoint_url")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Transfer(TypedDict):
    """The values of `transfer_options`."""

    jobs: int
    timeout: float | None


def transfer_options(function: _Function) -> _Function:
    """Add --jobs and --timeout; the command is called with the keywords of Transfer."""
    function = click.option(
        "--timeout",
        type=seconds,
        metavar="S",
        help="Give up after S seconds without data (default: 60, or the config.toml value).",
    )(function)
    return click.option(
        "--jobs",
        type=click.IntRange(1, 256),
        default=JOBS,
        show_default=True,
        help="Send N requests at a time.",
        metavar="N",
    )(function)


def remote_of(config: Config, text: str, transfer: Transfer | None = None) -> RemoteConfig:
    """Return the remote of a URL, or of a name in the configuration.

    Raises InputRefused, OSError.
    """
    url = config.remotes.get(text, text)
    if "://" not in url:
        known = ", ".join(sorted(config.remotes)) or "none"
        raise InputRefused(
            f"{text} is neither a URL nor the name of a remote",
            hint=f"use a URL such as s3://BUCKET/PREFIX, or a name in config.toml ({known})",
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
            hint="use s3://BUCKET/PREFIX, gs://…, az://…, https://… or file:///DIR; credentials "
            "belong in the environment",
        )
    url = f"{parts.scheme.lower()}:{url.partition(':')[2]}"
    timeout_s = (transfer and transfer["timeout"]) or config.remote_timeout_s
    options = _aws_options() if url.startswith("s3") else {}
    return RemoteConfig(url, options, timeout_s, transfer["jobs"] if transfer else JOBS)


def _aws_options() -> dict[str, str]:
    """Return the settings in AWS's files that the environment, which obstore reads, lacks."""
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
        found = {name: found[name] for name in _LOCATION_SETTINGS if name in found}
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
    """Raise InputRefused for an address that obstore cannot use."""
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not re.fullmatch(r"[!-~]+", value):
        raise InputRefused(
            f"{name} is {value[:100]!r}, which is not an address",
            hint="set it to http:// or https:// and a host",
        )


def pull_missing(ctx: click.Context, store: Store, remote: str, names: Iterable[str]) -> None:
    """Pull the artifacts of those `names` that are complete IDs and are not in the store.

    A failure is only reported, so that a build continues as with an empty cache. Raises
    InputRefused, BadConfig, OSError.
    """
    config = config_of(ctx)
    chosen = remote_of(config, remote)
    missing = [s for s in map(_complete_id, names) if s is not None and store.find(s) is None]
    if not missing:
        return
    from cas.remote.processes import pull_from

    done: list[Pulled] = []
    total = 0
    with _failures_reported("not pulled"), progress("Pulling") as shown:

        def on_bytes(size: int) -> None:
            nonlocal total
            total += size
            shown.update(0, size=total)

        pull_from(store, chosen, config.trusted_keys, missing, done.append, on_bytes)
    for result in done:
        _report_reason(result)


def artifact_pusher(
    ctx: click.Context, remote: str, key: str | None
) -> Callable[[Store, Artifact], str]:
    """Return a function that pushes an artifact, signed with the key in the file `key`.

    A failure is only reported, since the artifact is stored. The function returns the outcome, or
    "failed" if the remote could not be used. Raises InputRefused, NoRemotes, BadKey, BadConfig,
    OSError.
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
        with _failures_reported("not pushed"):
            push_to(store, chosen, terms, [artifact], done.append)
        for result in done:
            _report_reason(result)
        return done[0].outcome.value if done else "failed"

    return push


@contextlib.contextmanager
def _failures_reported(summary: str) -> Iterator[None]:
    """Report failures of a remote instead of raising them. Raises InputRefused, NoRemotes."""
    try:
        yield
    except (InputRefused, NoRemotes):
        raise
    except (CasError, OSError) as error:
        message = error.message if isinstance(error, CasError) else error.strerror or str(error)
        hint = error.hint if isinstance(error, CasError) else hint_for(error)
        note(f"{summary}: {message}{f' ({hint})' if hint else ''}")


def _report_reason(result: Pulled | Pushed) -> None:
    if result.why:
        note(f"{result.signature} in the remote: {result.why}")


def _complete_id(name: str) -> Signature | None:
    """Parse a complete ID, with or without a priority; return None for an abbreviation."""
    try:
        return Signature.parse(name.partition("@")[0])
    except BadSignature:
        return None
