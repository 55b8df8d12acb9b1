"""Key pairs of users: generated here (the private half is shown once and never kept) or imported.

The fingerprint of an SSH key is the MD5 of its blob, of an X.509 certificate the SHA-1 of its DER, as nova shows them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)
from sqlalchemy import Connection, RowMapping, Select, delete, insert, select
from sqlalchemy.exc import IntegrityError

from kilonova.errors import AlreadyExists, BadRequest, NotFound
from kilonova.store.schema import keypairs


@dataclass(frozen=True)
class KeyMaterial:
    public_key: str
    fingerprint: str
    private_key: str | None = None


def generate(comment: str) -> KeyMaterial:
    """A new ed25519 key pair in OpenSSH's formats."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return KeyMaterial(f"{public} {comment}".strip(), ssh_fingerprint(public), private)


def imported(public_key: str, key_type: str) -> KeyMaterial:
    """A public key that a user brings. Raises `BadRequest` when it is none."""
    if key_type == "x509":
        try:
            certificate = x509.load_pem_x509_certificate(public_key.encode())
        except Exception:  # cryptography raises many kinds for what is no certificate
            raise BadRequest("Keypair data is invalid: failed to read the X.509 certificate") from None
        digest = hashlib.sha1(certificate.public_bytes(Encoding.DER), usedforsecurity=False).hexdigest()
        return KeyMaterial(public_key, _colons(digest))
    text = public_key.strip()
    if "\n" in text:
        raise BadRequest("Keypair data is invalid: a public key is one line")
    try:
        load_ssh_public_key(text.encode())
    except Exception:  # cryptography raises many kinds for what is not a key
        raise BadRequest("Keypair data is invalid: failed to generate fingerprint") from None
    return KeyMaterial(public_key, ssh_fingerprint(text))


def ssh_fingerprint(public_key: str) -> str:
    """MD5 of the key's blob with colons. Raises `BadRequest` when there is no blob."""
    parts = public_key.split(None, 2)
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (IndexError, binascii.Error, ValueError):
        raise BadRequest("Keypair data is invalid: failed to generate fingerprint") from None
    return _colons(hashlib.md5(blob, usedforsecurity=False).hexdigest())


def _colons(digest: str) -> str:
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def create_keypair(tx: Connection, user_id: str, name: str, key_type: str, key: KeyMaterial) -> RowMapping:
    """Raises `AlreadyExists`."""
    try:
        tx.execute(
            insert(keypairs).values(
                user_id=user_id, name=name, type=key_type, public_key=key.public_key, fingerprint=key.fingerprint
            )
        )
    except IntegrityError:
        taken = select(keypairs.c.name).where(keypairs.c.user_id == user_id, keypairs.c.name == name)
        if tx.execute(taken).first() is None:
            raise NotFound(f"User {user_id} could not be found.") from None
        raise AlreadyExists(f"Key pair '{name}' already exists.") from None
    return get_keypair(tx, user_id, name)


def get_keypair(tx: Connection, user_id: str | None, name: str) -> RowMapping:
    """Raises `NotFound`."""
    query = select(keypairs).where(keypairs.c.user_id == user_id, keypairs.c.name == name)
    row = tx.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Keypair {name} not found for user {user_id}")
    return row


def list_keypairs(tx: Connection, user_id: str | None, *, limit: int | None, marker: str | None) -> list[RowMapping]:
    """A user's key pairs by name. Raises `BadRequest` for a marker that is not there."""
    query: Select[Any] = select(keypairs).where(keypairs.c.user_id == user_id).order_by(keypairs.c.name)
    if marker is not None:
        known = select(keypairs.c.name).where(keypairs.c.user_id == user_id, keypairs.c.name == marker)
        if tx.execute(known).first() is None:
            raise BadRequest(f"marker [{marker}] not found")
        query = query.where(keypairs.c.name > marker)
    if limit is not None:
        query = query.limit(limit)
    return list(tx.execute(query).mappings())


def delete_keypair(tx: Connection, user_id: str | None, name: str) -> None:
    """Instances made with it keep the key. Raises `NotFound`."""
    gone = tx.execute(delete(keypairs).where(keypairs.c.user_id == user_id, keypairs.c.name == name))
    if not gone.rowcount:
        raise NotFound(f"Keypair {name} not found for user {user_id}")
