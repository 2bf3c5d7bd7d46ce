"""Signing keys for records: Ed25519, by the library `cryptography`, an extra.

A public key is written as `ed25519:` and its 32 bytes in Base64.
"""

from __future__ import annotations

import base64
import os
from typing import Any

from cas.errors import CasError, InputRefused
from cas.remote.object_store import NoRemotes
from cas.system.text import quoted

_KIND = "ed25519:"


class BadKey(InputRefused):
    """A file or text is not a key."""


class SigningKey:
    """A private key; `public` is the text of its public key."""

    def __init__(self, key: Any) -> None:
        """Wrap an Ed25519PrivateKey of `cryptography`."""
        self._key = key
        raw: bytes = key.public_key().public_bytes_raw()
        self.public = _KIND + base64.b64encode(raw).decode()

    def sign(self, data: bytes) -> str:
        """Return the signature of `data` as text."""
        return base64.b64encode(self._key.sign(data)).decode()


def generate(path: str | bytes | os.PathLike[str]) -> SigningKey:
    """Generate a key pair; write the private key to a new file that only this user can read.

    Raises NoRemotes, CasError (the file exists), OSError.
    """
    ed25519, serialization = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    where = os.fsencode(path)
    try:
        fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        hint = "choose another name: records signed with a lost key are not trusted any more"
        raise CasError(f"{quoted(where)} exists already", hint=hint) from error
    with open(fd, "wb") as file:
        file.write(text)
    return SigningKey(key)


def read_key(path: str | bytes | os.PathLike[str]) -> SigningKey:
    """Read a private key from a file. Raises NoRemotes, BadKey, OSError."""
    ed25519, serialization = _cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm

    with open(path, "rb") as file:
        data = file.read(100_000)
    try:
        key = serialization.load_pem_private_key(data, None)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise ValueError("it has another type")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise BadKey(
            f"{quoted(os.fsencode(path))} is not a private Ed25519 key: {error}",
            hint="generate one with `cas key generate FILE`",
        ) from error
    return SigningKey(key)


def is_signed(data: bytes, public: str, mark: str) -> bool:
    """Return whether `mark` is the signature of `data` by a public key. Raises NoRemotes."""
    ed25519, _ = _cryptography()
    from cryptography.exceptions import InvalidSignature

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(
            base64.b64decode(public.removeprefix(_KIND), validate=True)
        )
        key.verify(base64.b64decode(mark, validate=True), data)
    except (InvalidSignature, ValueError):  # invalid Base64, too
        return False
    return True


def _cryptography() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise NoRemotes from error
    return ed25519, serialization
