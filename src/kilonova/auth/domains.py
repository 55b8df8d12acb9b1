"""Domains: the name spaces of users and projects. Units of work on the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from kilonova.auth import assignments, projects, revocations, users
from kilonova.auth.listing import Filter, page_of
from kilonova.errors import AlreadyExists, Forbidden, NotFound
from kilonova.ids import new_hex_id
from kilonova.store import schema
from kilonova.store.paging import Page

DEFAULT_ID = "default"


@dataclass(frozen=True)
class Domain:
    id: str
    name: str
    description: str
    enabled: bool


def _domain(row: Row[Any]) -> Domain:
    return Domain(row.id, row.name, row.description, row.enabled)


def find(tx: Connection, domain_id: str) -> Domain:
    """Raises `NotFound`."""
    row = tx.execute(select(schema.domains).where(schema.domains.c.id == domain_id)).one_or_none()
    if row is None:
        raise NotFound(f"Could not find domain: {domain_id}.")
    return _domain(row)


def listing(tx: Connection, filters: Sequence[Filter], page: Page) -> list[Domain]:
    return [_domain(row) for row in page_of(tx, select(schema.domains), schema.domains, filters, page)]


def listing_of_user(tx: Connection, user_id: str, filters: Sequence[Filter], page: Page) -> list[Domain]:
    """The domains on which the user has a role."""
    granted = select(schema.role_assignments.c.target_id).where(
        schema.role_assignments.c.user_id == user_id, schema.role_assignments.c.target_type == "domain"
    )
    query = select(schema.domains).where(schema.domains.c.id.in_(granted))
    return [_domain(row) for row in page_of(tx, query, schema.domains, filters, page)]


def create(
    tx: Connection, *, name: str, description: str = "", enabled: bool = True, domain_id: str | None = None
) -> Domain:
    """Raises `AlreadyExists` when the name or the id is taken."""
    domain = Domain(domain_id or new_hex_id(), name, description, enabled)
    try:
        tx.execute(insert(schema.domains).values(id=domain.id, name=name, description=description, enabled=enabled))
    except IntegrityError:
        raise AlreadyExists(f"A domain named '{name}' exists already") from None
    return domain


def change(tx: Connection, domain_id: str, values: dict[str, Any]) -> Domain:
    """Set columns; disabling voids the tokens of the domain's users and projects."""
    before = find(tx, domain_id)
    try:
        if values:
            tx.execute(update(schema.domains).where(schema.domains.c.id == domain_id).values(values))
    except IntegrityError:
        raise AlreadyExists(f"A domain named '{values.get('name')}' exists already") from None
    after = find(tx, domain_id)
    if before.enabled and not after.enabled:
        revocations.revoke(tx, revocations.of_domain(domain_id))
    return after


def remove(tx: Connection, domain_id: str) -> None:
    """Delete a disabled domain with its users and projects.

    Raises `Forbidden` while it is enabled, and `InUse` when one of its projects still has resources.
    """
    domain = find(tx, domain_id)
    if domain_id == DEFAULT_ID:
        raise Forbidden("The default domain cannot be deleted")
    if domain.enabled:
        raise Forbidden(f"Domain {domain_id} is enabled: disable it before deleting it")
    for project_id in projects.ids_children_first(tx, domain_id):
        projects.remove(tx, project_id)
    for user_id in tx.scalars(select(schema.users.c.id).where(schema.users.c.domain_id == domain_id)).all():
        users.remove(tx, user_id)
    assignments.remove_target(tx, domain_id)
    revocations.revoke(tx, revocations.of_domain(domain_id))
    tx.execute(delete(schema.domains).where(schema.domains.c.id == domain_id))
