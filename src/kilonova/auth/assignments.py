"""Assignments: which user has which role on which project or domain, or on the system. Units of work on the store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Connection, and_, delete, insert, select

from kilonova.auth import revocations, roles
from kilonova.auth.roles import Role
from kilonova.auth.tokens import Named
from kilonova.errors import NotFound
from kilonova.store import schema
from kilonova.store.schema import role_assignments as table

TargetType = Literal["project", "domain", "system"]


@dataclass(frozen=True)
class Target:
    """What a role is given on."""

    type: TargetType
    id: str


SYSTEM = Target("system", "all")


@dataclass(frozen=True)
class Assignment:
    user: Named
    user_domain: Named
    target: Target
    target_name: str
    """Empty for the system."""
    target_domain: Named | None
    """Of a project."""
    role: Role


@dataclass(frozen=True)
class AssignmentFilter:
    user_id: str | None = None
    role_id: str | None = None
    target: Target | None = None


def grant(tx: Connection, user_id: str, target: Target, role_id: str) -> None:
    """Give a user a role; nothing happens when it has it. Raises `NotFound` naming what does not exist."""
    check_exist(tx, user_id, target)
    roles.find(tx, role_id)
    if not _has(tx, user_id, target, role_id):
        tx.execute(insert(table).values(user_id=user_id, target_type=target.type, target_id=target.id, role_id=role_id))


def check(tx: Connection, user_id: str, target: Target, role_id: str) -> None:
    """Raises `NotFound` unless the user was given the role on the target itself."""
    check_exist(tx, user_id, target)
    roles.find(tx, role_id)
    if not _has(tx, user_id, target, role_id):
        raise NotFound(f"Could not find role assignment with role: {role_id}, user: {user_id}, {_words(target)}.")


def withdraw(tx: Connection, user_id: str, target: Target, role_id: str) -> None:
    """Take a role back and void the user's tokens on the target. Raises `NotFound` when it was not given."""
    check(tx, user_id, target, role_id)
    tx.execute(
        delete(table).where(
            table.c.user_id == user_id,
            table.c.target_type == target.type,
            table.c.target_id == target.id,
            table.c.role_id == role_id,
        )
    )
    revocations.revoke(tx, revocations.of_grant(user_id, target.id))


def roles_of(tx: Connection, user_id: str, target: Target) -> list[Role]:
    """The roles that the user was given on the target itself, by name."""
    query = (
        select(schema.roles)
        .join(table, table.c.role_id == schema.roles.c.id)
        .where(table.c.user_id == user_id, table.c.target_type == target.type, table.c.target_id == target.id)
        .order_by(schema.roles.c.name)
    )
    return [Role(row.id, row.name, row.description) for row in tx.execute(query)]


def listing(tx: Connection, wanted: AssignmentFilter, *, effective: bool = False) -> list[Assignment]:
    """All assignments that pass the filter; with `effective` also the implied ones."""
    users, projects = schema.users, schema.projects
    query = (
        select(
            table,
            schema.roles.c.name.label("role_name"),
            schema.roles.c.description,
            users.c.name.label("user_name"),
            users.c.domain_id.label("user_domain_id"),
            projects.c.name.label("project_name"),
            projects.c.domain_id.label("project_domain_id"),
        )
        .join(schema.roles, schema.roles.c.id == table.c.role_id)
        .join(users, users.c.id == table.c.user_id)
        .outerjoin(projects, and_(table.c.target_type == "project", projects.c.id == table.c.target_id))
    )
    if wanted.user_id is not None:
        query = query.where(table.c.user_id == wanted.user_id)
    if wanted.target is not None:
        query = query.where(table.c.target_type == wanted.target.type, table.c.target_id == wanted.target.id)
    if wanted.role_id is not None and not effective:
        query = query.where(table.c.role_id == wanted.role_id)
    rows = tx.execute(query.order_by(users.c.name, table.c.user_id, table.c.target_type, table.c.target_id)).all()
    domains = {
        row.id: Named(row.id, row.name) for row in tx.execute(select(schema.domains.c.id, schema.domains.c.name))
    }
    given: dict[tuple[str, Target], list[Assignment]] = {}
    for row in rows:
        target = Target(row.target_type, row.target_id)
        project_domain = domains[row.project_domain_id] if target.type == "project" else None
        domain_name = domains[target.id].name if target.type == "domain" else ""
        assignment = Assignment(
            user=Named(row.user_id, row.user_name),
            user_domain=domains[row.user_domain_id],
            target=target,
            target_name=row.project_name if target.type == "project" else domain_name,
            target_domain=project_domain,
            role=Role(row.role_id, row.role_name, row.description),
        )
        given.setdefault((row.user_id, target), []).append(assignment)
    found: list[Assignment] = []
    for held in given.values():
        if effective:
            implied = roles.with_implied(tx, [each.role for each in held])
            found += [replace(held[0], role=role) for role in implied]
        else:
            found += sorted(held, key=lambda each: each.role.name)
    return [each for each in found if wanted.role_id in {None, each.role.id}]


def remove_target(tx: Connection, target_id: str) -> None:
    """Forget every assignment on a project or domain that goes away."""
    tx.execute(delete(table).where(table.c.target_id == target_id))


def check_exist(tx: Connection, user_id: str, target: Target) -> None:
    """Raises `NotFound` naming the user, project or domain that does not exist."""
    if tx.scalar(select(schema.users.c.id).where(schema.users.c.id == user_id)) is None:
        raise NotFound(f"Could not find user: {user_id}.")
    if target.type == "system":
        return
    owners = schema.projects if target.type == "project" else schema.domains
    if tx.scalar(select(owners.c.id).where(owners.c.id == target.id)) is None:
        raise NotFound(f"Could not find {target.type}: {target.id}.")


def _has(tx: Connection, user_id: str, target: Target, role_id: str) -> bool:
    query = select(table.c.role_id).where(
        table.c.user_id == user_id,
        table.c.target_type == target.type,
        table.c.target_id == target.id,
        table.c.role_id == role_id,
    )
    return tx.scalar(query) is not None


def _words(target: Target) -> str:
    return "system" if target.type == "system" else f"{target.type}: {target.id}"
