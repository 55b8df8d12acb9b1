"""Users: who may log in. Units of work on the store; whoever calls them has hashed the password before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from kilonova.auth import revocations
from kilonova.auth.listing import Filter, page_of
from kilonova.errors import AlreadyExists, NotFound, Unauthorized
from kilonova.ids import new_hex_id
from kilonova.store import schema
from kilonova.store.paging import Page


@dataclass(frozen=True)
class User:
    id: str
    domain_id: str
    name: str
    description: str
    email: str | None
    enabled: bool
    default_project_id: str | None
    extra: dict[str, Any]
    """Attributes that a client gave and this cloud gives no meaning."""


def _user(row: Row[Any]) -> User:
    return User(
        id=row.id,
        domain_id=row.domain_id,
        name=row.name,
        description=row.description,
        email=row.email,
        enabled=row.enabled,
        default_project_id=row.default_project_id,
        extra=row.extra,
    )


def find(tx: Connection, user_id: str) -> User:
    """Raises `NotFound`."""
    row = tx.execute(select(schema.users).where(schema.users.c.id == user_id)).one_or_none()
    if row is None:
        raise NotFound(f"Could not find user: {user_id}.")
    return _user(row)


def find_by_name(tx: Connection, name: str, domain_id: str) -> User:
    """Raises `NotFound`."""
    query = select(schema.users).where(schema.users.c.name == name, schema.users.c.domain_id == domain_id)
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"Could not find user: {name}.")
    return _user(row)


def password_hash(tx: Connection, user_id: str) -> str | None:
    """Raises `NotFound`."""
    row = tx.execute(select(schema.users.c.password_hash).where(schema.users.c.id == user_id)).one_or_none()
    if row is None:
        raise NotFound(f"Could not find user: {user_id}.")
    found: str | None = row.password_hash
    return found


def password_hash_if_enabled(tx: Connection, user_id: str) -> str | None:
    """None when there is no such user, it or its domain is disabled, or it has no password."""
    query = (
        select(schema.users.c.password_hash)
        .join(schema.domains, schema.domains.c.id == schema.users.c.domain_id)
        .where(schema.users.c.id == user_id, schema.users.c.enabled, schema.domains.c.enabled)
    )
    return tx.scalar(query)


def listing(tx: Connection, filters: Sequence[Filter], page: Page) -> list[User]:
    return [_user(row) for row in page_of(tx, select(schema.users), schema.users, filters, page)]


def create(
    tx: Connection,
    *,
    name: str,
    domain_id: str,
    description: str = "",
    email: str | None = None,
    enabled: bool = True,
    default_project_id: str | None = None,
    password_hash: str | None = None,
    extra: dict[str, Any] | None = None,
) -> User:
    """Raises `NotFound` for the domain and `AlreadyExists` when the name is taken in it."""
    _check_domain(tx, domain_id)
    user_id = new_hex_id()
    values = {
        "id": user_id,
        "name": name,
        "domain_id": domain_id,
        "description": description,
        "email": email,
        "enabled": enabled,
        "default_project_id": default_project_id,
        "password_hash": password_hash,
        "password_changed_at": schema.now() if password_hash else None,
        "extra": extra or {},
    }
    try:
        tx.execute(insert(schema.users).values(values))
    except IntegrityError:
        raise _taken(name, domain_id) from None
    return find(tx, user_id)


def change(tx: Connection, user_id: str, values: dict[str, Any]) -> User:
    """Set columns; a new `password_hash` and disabling void every token of the user."""
    before = find(tx, user_id)
    values = dict(values)
    if "password_hash" in values:
        values["password_changed_at"] = schema.now()
    try:
        if values:
            tx.execute(update(schema.users).where(schema.users.c.id == user_id).values(values))
    except IntegrityError:
        raise _taken(values.get("name", before.name), before.domain_id) from None
    after = find(tx, user_id)
    if "password_hash" in values or (before.enabled and not after.enabled):
        revocations.revoke(tx, revocations.of_user(user_id))
    return after


def replace_password(tx: Connection, user_id: str, *, old_hash: str, new_hash: str) -> None:
    """The user's own change of password. Raises `Unauthorized` when it was changed in the meantime."""
    if password_hash(tx, user_id) != old_hash:
        raise Unauthorized("The password was changed by someone else a moment ago")
    change(tx, user_id, {"password_hash": new_hash})


def remove(tx: Connection, user_id: str) -> None:
    """Delete a user with its assignments and key pairs, and void its tokens."""
    find(tx, user_id)
    revocations.revoke(tx, revocations.of_user(user_id))
    tx.execute(delete(schema.users).where(schema.users.c.id == user_id))


def _check_domain(tx: Connection, domain_id: str) -> None:
    if tx.scalar(select(schema.domains.c.id).where(schema.domains.c.id == domain_id)) is None:
        raise NotFound(f"Could not find domain: {domain_id}.")


def _taken(name: str, domain_id: str) -> AlreadyExists:
    return AlreadyExists(f"A user named '{name}' exists already in domain {domain_id}")
