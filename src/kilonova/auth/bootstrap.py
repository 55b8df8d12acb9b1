"""What every cloud begins with: the default domain, the standard roles, and an administrator with a project."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from kilonova.auth import assignments, domains, projects, roles, users
from kilonova.auth.assignments import SYSTEM, Target
from kilonova.errors import NotFound, Unavailable
from kilonova.ids import ProjectId, UserId
from kilonova.store import schema

ADMIN = "admin"
"""The first user, its project and its role."""


@dataclass(frozen=True)
class Administrator:
    user_id: UserId
    project_id: ProjectId


def administrator(tx: Connection) -> tuple[str, str | None] | None:
    """The id and password hash of the first user; none before the first start."""
    query = select(schema.users.c.id, schema.users.c.password_hash).where(
        schema.users.c.name == ADMIN, schema.users.c.domain_id == domains.DEFAULT_ID
    )
    row = tx.execute(query).one_or_none()
    return None if row is None else (row.id, row.password_hash)


def bootstrap(tx: Connection, password_hash: str | None) -> Administrator:
    """Make what is missing; a password hash, when given, becomes the administrator's, who is enabled by it.

    Raises `Unavailable` when there is no administrator yet and no password to make one.
    """
    try:
        domains.find(tx, domains.DEFAULT_ID)
    except NotFound:
        domains.create(tx, name="Default", description="The default domain", domain_id=domains.DEFAULT_ID)
    held = {row.name: row.id for row in tx.execute(select(schema.roles.c.id, schema.roles.c.name))}
    for name in roles.STANDARD:
        if name not in held:
            held[name] = roles.create(tx, name=name).id
    try:
        project = projects.find_by_name(tx, ADMIN, domains.DEFAULT_ID)
    except NotFound:
        project = projects.create(
            tx, name=ADMIN, domain_id=domains.DEFAULT_ID, description="The administrator's project"
        )
    found = administrator(tx)
    if found is None:
        if password_hash is None:
            raise Unavailable("There is no user 'admin' yet: give a password for it (--admin-password)")
        user_id = users.create(
            tx,
            name=ADMIN,
            domain_id=domains.DEFAULT_ID,
            default_project_id=project.id,
            password_hash=password_hash,
        ).id
    else:
        user_id = found[0]
        if password_hash is not None:
            users.change(tx, user_id, {"password_hash": password_hash, "enabled": True})
    for target in (Target("project", project.id), SYSTEM):
        assignments.grant(tx, user_id, target, held[ADMIN])
    return Administrator(UserId(user_id), ProjectId(project.id))
