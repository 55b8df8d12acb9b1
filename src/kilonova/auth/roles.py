"""Roles: names that policies ask for. Units of work on the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from kilonova.auth import revocations
from kilonova.auth.listing import Filter, page_of
from kilonova.errors import AlreadyExists, Forbidden, NotFound
from kilonova.ids import new_hex_id
from kilonova.store import schema
from kilonova.store.paging import Page

STANDARD = ("admin", "manager", "member", "reader", "service")
"""The roles that every cloud has."""

_IMPLIED = {
    "admin": ("manager", "member", "reader"),
    "manager": ("member", "reader"),
    "member": ("reader",),
}


@dataclass(frozen=True)
class Role:
    id: str
    name: str
    description: str


def _role(row: Row[Any]) -> Role:
    return Role(row.id, row.name, row.description)


def find(tx: Connection, role_id: str) -> Role:
    """Raises `NotFound`."""
    row = tx.execute(select(schema.roles).where(schema.roles.c.id == role_id)).one_or_none()
    if row is None:
        raise NotFound(f"Could not find role: {role_id}.")
    return _role(row)


def listing(tx: Connection, filters: Sequence[Filter], page: Page) -> list[Role]:
    return [_role(row) for row in page_of(tx, select(schema.roles), schema.roles, filters, page)]


def with_implied(tx: Connection, granted: Iterable[Role]) -> list[Role]:
    """The roles and those that they imply (admin > manager > member > reader), by name."""
    found = {role.name: role for role in granted}
    wanted = {name for role in found for name in _IMPLIED.get(role, ())} - set(found)
    if wanted:
        for row in tx.execute(select(schema.roles).where(schema.roles.c.name.in_(sorted(wanted)))):
            found[row.name] = _role(row)
    return [found[name] for name in sorted(found)]


def create(tx: Connection, *, name: str, description: str = "") -> Role:
    """Raises `AlreadyExists` when the name is taken."""
    role = Role(new_hex_id(), name, description)
    try:
        tx.execute(insert(schema.roles).values(vars(role)))
    except IntegrityError:
        raise _taken(name) from None
    return role


def change(tx: Connection, role_id: str, values: dict[str, Any]) -> Role:
    """Set columns. Raises `Forbidden` for a new name of a standard role, on which policies depend."""
    before = find(tx, role_id)
    if before.name in STANDARD and values.get("name", before.name) != before.name:
        raise Forbidden(f"The role {before.name} cannot be renamed: policies name it")
    try:
        if values:
            tx.execute(update(schema.roles).where(schema.roles.c.id == role_id).values(values))
    except IntegrityError:
        raise _taken(values["name"]) from None
    return find(tx, role_id)


def remove(tx: Connection, role_id: str) -> None:
    """Delete a role with its assignments, and void the tokens that carry it. Raises `Forbidden` for a standard role."""
    role = find(tx, role_id)
    if role.name in STANDARD:
        raise Forbidden(f"The role {role.name} cannot be deleted: policies name it")
    table = schema.role_assignments
    for row in tx.execute(select(table.c.user_id, table.c.target_id).where(table.c.role_id == role_id)).all():
        revocations.revoke(tx, revocations.of_grant(row.user_id, row.target_id))
    tx.execute(delete(schema.roles).where(schema.roles.c.id == role_id))


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists(f"A role named '{name}' exists already")
