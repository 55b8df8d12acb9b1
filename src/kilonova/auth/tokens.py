"""Signed tokens: what a token says, and its text form.

`kn1.KEY.PAYLOAD.MAC`: the id of the signing key, the payload as msgpack and an HMAC-SHA256 over everything before it,
both in base64url without padding. Nothing here knows users or the store; whether a token was revoked is
`kilonova.auth.revocations`'s to say.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from kilonova.errors import Unauthorized

VERSION = "kn1"


class Named(msgspec.Struct, frozen=True, array_like=True):
    """A resource as a token quotes it."""

    id: str
    name: str


class Token(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a token says about its holder. At most one of `project`, `domain`, `system` is its scope."""

    id: str
    user: Named
    user_domain: Named
    methods: tuple[str, ...]
    issued_us: int
    """Microseconds since 1970, UTC, as `expires_us`."""
    expires_us: int
    project: Named | None = None
    project_domain: Named | None = None
    domain: Named | None = None
    system: bool = False
    roles: tuple[Named, ...] = ()
    parent_id: str = ""
    """The token that this one was made from by rescoping."""

    @property
    def issued_at(self) -> datetime:
        return datetime.fromtimestamp(self.issued_us / 1e6, UTC)

    @property
    def expires_at(self) -> datetime:
        return datetime.fromtimestamp(self.expires_us / 1e6, UTC)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Token)


def new_token_id() -> str:
    return secrets.token_urlsafe(16)


def sign(token: Token, key_id: str, secret: bytes) -> str:
    """The token's text form."""
    signed = f"{VERSION}.{key_id}.{_text(_encoder.encode(token))}"
    return f"{signed}.{_text(_mac(secret, signed))}"


def verify(text: str, keys: Mapping[str, bytes]) -> Token:
    """The token of a text whose signature holds, expired or not. Raises `Unauthorized` for anything else."""
    signed, _, mac = text.rpartition(".")
    parts = signed.split(".")
    if len(parts) != 3 or parts[0] != VERSION or parts[1] not in keys or not text.isascii():
        raise _unknown()
    if not hmac.compare_digest(_text(_mac(keys[parts[1]], signed)), mac):
        raise _unknown()
    try:
        return _decoder.decode(base64.urlsafe_b64decode(parts[2] + "=" * (-len(parts[2]) % 4)))
    except (msgspec.DecodeError, binascii.Error):  # signed by a version whose tokens had another shape
        raise _unknown() from None


def _unknown() -> Unauthorized:
    return Unauthorized("The token is not valid: ask for a new one at /identity/v3/auth/tokens")


def _mac(secret: bytes, signed: str) -> bytes:
    return hmac.digest(secret, signed.encode(), hashlib.sha256)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
