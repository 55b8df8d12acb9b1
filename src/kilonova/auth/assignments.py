"""Assignments: which user has which role on which project or domain, or on the system. Units of work on the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, delete, insert, select

from kilonova.auth import revocations, roles
from kilonova.auth.roles import Role
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
    user_id: str
    target: Target
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
    query = select(table, schema.roles.c.name, schema.roles.c.description).join(
        schema.roles, schema.roles.c.id == table.c.role_id
    )
    if wanted.user_id is not None:
        query = query.where(table.c.user_id == wanted.user_id)
    if wanted.target is not None:
        query = query.where(table.c.target_type == wanted.target.type, table.c.target_id == wanted.target.id)
    if wanted.role_id is not None and not effective:
        query = query.where(table.c.role_id == wanted.role_id)
    rows = tx.execute(query.order_by(table.c.user_id, table.c.target_type, table.c.target_id, schema.roles.c.name))
    given: dict[tuple[str, Target], list[Role]] = {}
    for row in rows:
        held = given.setdefault((row.user_id, Target(row.target_type, row.target_id)), [])
        held.append(Role(row.role_id, row.name, row.description))
    if effective:
        given = {key: roles.with_implied(tx, held) for key, held in given.items()}
    return [
        Assignment(user_id, target, role)
        for (user_id, target), held in given.items()
        for role in held
        if wanted.role_id in {None, role.id}
    ]


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
