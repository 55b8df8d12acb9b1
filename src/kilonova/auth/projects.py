"""Projects: who owns resources. Units of work on the store.

A project can hang below another of its domain; that orders them and gives nobody any rights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from kilonova.auth import assignments, revocations
from kilonova.auth.listing import Filter, page_of
from kilonova.errors import AlreadyExists, BadRequest, Forbidden, InUse, NotFound
from kilonova.ids import new_hex_id
from kilonova.store import schema
from kilonova.store.paging import Page

_OWNED = {
    "servers": schema.instances,
    "floating IPs": schema.floating_ips,
    "routers": schema.routers,
    "ports": schema.ports,
    "networks": schema.networks,
    "images": schema.images,
}
"""What keeps a project from being deleted."""


@dataclass(frozen=True)
class Project:
    id: str
    domain_id: str
    parent_id: str
    """The domain's id for a project at the top."""
    name: str
    description: str
    enabled: bool
    tags: list[str]
    extra: dict[str, Any]
    """Attributes that a client gave and this cloud gives no meaning."""


@dataclass(frozen=True)
class TagFilter:
    """Tags that must all be there, of which one must be, that must not all be there, of which none may be."""

    every: frozenset[str] = field(default_factory=frozenset)
    some: frozenset[str] = field(default_factory=frozenset)
    not_every: frozenset[str] = field(default_factory=frozenset)
    none: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_empty(self) -> bool:
        return not (self.every or self.some or self.not_every or self.none)

    def accepts(self, tags: Sequence[str]) -> bool:
        has = frozenset(tags)
        return (
            self.every <= has
            and (not self.some or bool(self.some & has))
            and (not self.not_every or not self.not_every <= has)
            and not self.none & has
        )


def _project(row: Row[Any]) -> Project:
    return Project(
        id=row.id,
        domain_id=row.domain_id,
        parent_id=row.parent_id,
        name=row.name,
        description=row.description,
        enabled=row.enabled,
        tags=row.tags,
        extra=row.extra,
    )


def find(tx: Connection, project_id: str) -> Project:
    """Raises `NotFound`."""
    row = tx.execute(select(schema.projects).where(schema.projects.c.id == project_id)).one_or_none()
    if row is None:
        raise NotFound(f"Could not find project: {project_id}.")
    return _project(row)


def find_by_name(tx: Connection, name: str, domain_id: str) -> Project:
    """Raises `NotFound`."""
    query = select(schema.projects).where(schema.projects.c.name == name, schema.projects.c.domain_id == domain_id)
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"Could not find project: {name}.")
    return _project(row)


def listing(tx: Connection, filters: Sequence[Filter], page: Page, tags: TagFilter | None = None) -> list[Project]:
    return _page(tx, select(schema.projects), filters, page, tags)


def listing_of_user(tx: Connection, user_id: str, filters: Sequence[Filter], page: Page) -> list[Project]:
    """The projects on which the user has a role."""
    granted = select(schema.role_assignments.c.target_id).where(
        schema.role_assignments.c.user_id == user_id, schema.role_assignments.c.target_type == "project"
    )
    return _page(tx, select(schema.projects).where(schema.projects.c.id.in_(granted)), filters, page, None)


def _page(
    tx: Connection, query: Select[Any], filters: Sequence[Filter], page: Page, tags: TagFilter | None
) -> list[Project]:
    if tags is None or tags.is_empty:
        return [_project(row) for row in page_of(tx, query, schema.projects, filters, page)]
    # Tags are a JSON list, which the stores cannot search alike: the page is cut here, after the filter.
    rows = page_of(tx, query, schema.projects, filters, Page(None, page.marker, page.sort))
    return [_project(row) for row in rows if tags.accepts(row.tags)][: page.limit]


def create(
    tx: Connection,
    *,
    name: str,
    domain_id: str,
    parent_id: str | None = None,
    description: str = "",
    enabled: bool = True,
    tags: Sequence[str] = (),
    extra: dict[str, Any] | None = None,
) -> Project:
    """Raises `NotFound` for the domain or parent and `AlreadyExists` when the name is taken in the domain."""
    if tx.scalar(select(schema.domains.c.id).where(schema.domains.c.id == domain_id)) is None:
        raise NotFound(f"Could not find domain: {domain_id}.")
    if parent_id is not None and parent_id != domain_id and find(tx, parent_id).domain_id != domain_id:
        raise BadRequest(f"parent_id: project {parent_id} is not in domain {domain_id}")
    project = Project(
        id=new_hex_id(),
        domain_id=domain_id,
        parent_id=parent_id or domain_id,
        name=name,
        description=description,
        enabled=enabled,
        tags=list(tags),
        extra=extra or {},
    )
    try:
        tx.execute(insert(schema.projects).values(vars(project)))
    except IntegrityError:
        raise _taken(name, domain_id) from None
    return project


def change(tx: Connection, project_id: str, values: dict[str, Any]) -> Project:
    """Set columns; disabling voids every token on the project."""
    before = find(tx, project_id)
    try:
        if values:
            tx.execute(update(schema.projects).where(schema.projects.c.id == project_id).values(values))
    except IntegrityError:
        raise _taken(values.get("name", before.name), before.domain_id) from None
    after = find(tx, project_id)
    if before.enabled and not after.enabled:
        revocations.revoke(tx, revocations.of_project(project_id))
    return after


def remove(tx: Connection, project_id: str) -> None:
    """Delete a project that owns nothing, with its assignments, quotas and default security group; void its tokens.

    Raises `Forbidden` when projects hang below it and `InUse` that lists what it still owns.
    """
    find(tx, project_id)
    if tx.scalar(select(schema.projects.c.id).where(schema.projects.c.parent_id == project_id).limit(1)):
        raise Forbidden(f"Project {project_id} has projects below it: delete them first")
    left = left_in(tx, project_id)
    if left:
        owned = ", ".join(f"{count} {noun}" for noun, count in left.items())
        raise InUse(f"Project {project_id} still has {owned}: delete them first")
    assignments.remove_target(tx, project_id)
    revocations.revoke(tx, revocations.of_project(project_id))
    tx.execute(delete(schema.quotas).where(schema.quotas.c.project_id == project_id))
    tx.execute(delete(schema.security_groups).where(schema.security_groups.c.project_id == project_id))
    # What is left of these is the use of a shared network: one of its own would still be there.
    tx.execute(delete(schema.project_networks).where(schema.project_networks.c.project_id == project_id))
    tx.execute(
        update(schema.users).where(schema.users.c.default_project_id == project_id).values(default_project_id=None)
    )
    tx.execute(delete(schema.projects).where(schema.projects.c.id == project_id))


def left_in(tx: Connection, project_id: str) -> dict[str, int]:
    """How many of which resources the project owns."""
    counts = {
        noun: tx.execute(select(func.count()).select_from(table).where(table.c.project_id == project_id)).scalar_one()
        for noun, table in _OWNED.items()
    }
    return {noun: count for noun, count in counts.items() if count}


def ids_children_first(tx: Connection, domain_id: str) -> list[str]:
    """The domain's projects in an order in which they can be deleted."""
    query = select(schema.projects.c.id, schema.projects.c.parent_id).where(schema.projects.c.domain_id == domain_id)
    parents = {row.id: row.parent_id for row in tx.execute(query)}

    def depth(project_id: str) -> int:
        return 1 + depth(parents[project_id]) if project_id in parents else 0

    return sorted(parents, key=depth, reverse=True)


def _taken(name: str, domain_id: str) -> AlreadyExists:
    return AlreadyExists(f"A project named '{name}' exists already in domain {domain_id}")
