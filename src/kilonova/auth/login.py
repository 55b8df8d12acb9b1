"""Logging in and changing scope: from what a client proves and asks for to a token.

Everything that keeps somebody out is the same `Unauthorized` to the client; the log says the reason.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from sqlalchemy import Connection, select

from kilonova.auth import assignments, roles
from kilonova.auth.assignments import SYSTEM, Target
from kilonova.auth.manager import AuthManager
from kilonova.auth.tokens import Named, Token
from kilonova.errors import Unauthorized
from kilonova.store import schema

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """A resource by id, or by name within a domain that is itself given by id or name."""

    id: str | None = None
    name: str | None = None
    domain_id: str | None = None
    domain_name: str | None = None


@dataclass(frozen=True)
class Scope:
    """What a token shall be good for; nothing set: the user's default project, if there is one."""

    project: Reference | None = None
    domain: Reference | None = None
    system: bool = False
    unscoped: bool = False


@dataclass(frozen=True)
class _Account:
    user: Named
    domain: Named
    enabled: bool
    password_hash: str | None
    default_project_id: str | None


@dataclass(frozen=True)
class _Granted:
    """A scope with the roles that the user has on it.

    `moment_us` is taken inside the transaction that looked: a change committed before was seen, and one committed later
    revokes at a later moment. So no token can outlive a change that came while somebody logged in.
    """

    moment_us: int
    project: Named | None = None
    project_domain: Named | None = None
    domain: Named | None = None
    system: bool = False
    roles: tuple[Named, ...] = ()


async def by_password(auth: AuthManager, who: Reference, password: str, scope: Scope) -> tuple[str, Token]:
    """A token, as text and as what it says. Raises `Unauthorized`."""
    account = await auth.store.read(_account, who)
    matches = await auth.passwords.matches(password, None if account is None else account.password_hash)
    if account is None or not matches:
        log.info("login refused: %s", "no such user" if account is None else f"wrong password for {account.user.id}")
        raise _refused()
    if not account.enabled:
        log.info("login refused: user %s or its domain is disabled", account.user.id)
        raise _refused()
    granted = await auth.store.write(_grant, account, scope)
    return _issue(auth, account, ("password",), granted)


async def by_token(auth: AuthManager, token: str, scope: Scope) -> tuple[str, Token]:
    """A token of another scope for the holder of one; it expires when that does. Raises `Unauthorized`."""
    parent = auth.read(token)
    account = await auth.store.read(_account, Reference(id=parent.user.id))
    if account is None or not account.enabled:
        raise _refused()
    granted = await auth.store.write(_grant, account, scope)
    methods = tuple(dict.fromkeys((*parent.methods, "token")))
    return _issue(auth, account, methods, granted, parent)


def _issue(
    auth: AuthManager, account: _Account, methods: tuple[str, ...], granted: _Granted, parent: Token | None = None
) -> tuple[str, Token]:
    return auth.issue(
        user=account.user,
        user_domain=account.domain,
        methods=methods,
        project=granted.project,
        project_domain=granted.project_domain,
        domain=granted.domain,
        system=granted.system,
        roles=granted.roles,
        parent=parent,
        issued_us=granted.moment_us,
    )


def _account(tx: Connection, who: Reference) -> _Account | None:
    users, domains = schema.users, schema.domains
    query = select(users, domains.c.name.label("domain_name"), domains.c.enabled.label("domain_enabled")).join(
        domains, domains.c.id == users.c.domain_id
    )
    if who.id is not None:
        query = query.where(users.c.id == who.id)
    else:
        query = query.where(users.c.name == who.name)
        if who.domain_id is not None:
            query = query.where(users.c.domain_id == who.domain_id)
        else:
            query = query.where(domains.c.name == who.domain_name)
    row = tx.execute(query).one_or_none()
    if row is None:
        return None
    return _Account(
        user=Named(row.id, row.name),
        domain=Named(row.domain_id, row.domain_name),
        enabled=row.enabled and row.domain_enabled,
        password_hash=row.password_hash,
        default_project_id=row.default_project_id,
    )


def _grant(tx: Connection, account: _Account, scope: Scope) -> _Granted:
    """Reads only, but runs as a write so that no change happens beside it (see `_Granted`).

    Raises `Unauthorized` when the scope does not exist, is disabled, or the user has no role on it.
    """
    now = _account(tx, Reference(id=account.user.id))
    if now is None or not now.enabled or now.password_hash != account.password_hash:
        raise _refused()
    if scope.project is not None:
        return _on_project(tx, account, scope.project)
    if scope.domain is not None:
        return _on_domain(tx, account, scope.domain)
    if scope.system:
        return _Granted(_moment(), system=True, roles=_roles(tx, account, SYSTEM, "the system"))
    if account.default_project_id is not None and not scope.unscoped:
        try:
            return _on_project(tx, account, Reference(id=account.default_project_id))
        except Unauthorized:
            return _Granted(_moment())
    return _Granted(_moment())


def _moment() -> int:
    return time.time_ns() // 1000


def _on_project(tx: Connection, account: _Account, which: Reference) -> _Granted:
    projects, domains = schema.projects, schema.domains
    query = (
        select(projects.c.id, projects.c.name, projects.c.domain_id, domains.c.name.label("domain_name"))
        .join(domains, domains.c.id == projects.c.domain_id)
        .where(projects.c.enabled, domains.c.enabled)
    )
    if which.id is not None:
        query = query.where(projects.c.id == which.id)
    else:
        query = query.where(projects.c.name == which.name)
        if which.domain_id is not None:
            query = query.where(projects.c.domain_id == which.domain_id)
        else:
            query = query.where(domains.c.name == which.domain_name)
    row = tx.execute(query).one_or_none()
    if row is None:
        raise _no_access(account, f"project {which.id or which.name}")
    return _Granted(
        _moment(),
        project=Named(row.id, row.name),
        project_domain=Named(row.domain_id, row.domain_name),
        roles=_roles(tx, account, Target("project", row.id), f"project {row.name}"),
    )


def _on_domain(tx: Connection, account: _Account, which: Reference) -> _Granted:
    domains = schema.domains
    query = select(domains.c.id, domains.c.name).where(domains.c.enabled)
    query = query.where(domains.c.id == which.id if which.id is not None else domains.c.name == which.name)
    row = tx.execute(query).one_or_none()
    if row is None:
        raise _no_access(account, f"domain {which.id or which.name}")
    held = _roles(tx, account, Target("domain", row.id), f"domain {row.name}")
    return _Granted(_moment(), domain=Named(row.id, row.name), roles=held)


def _roles(tx: Connection, account: _Account, target: Target, words: str) -> tuple[Named, ...]:
    held = roles.with_implied(tx, assignments.roles_of(tx, account.user.id, target))
    if not held:
        raise _no_access(account, words)
    return tuple(Named(role.id, role.name) for role in held)


def _no_access(account: _Account, words: str) -> Unauthorized:
    return Unauthorized(
        f"User {account.user.name} has no access to {words}: it is not there, disabled, or no role on it"
    )


def _refused() -> Unauthorized:
    return Unauthorized("The user or the password is wrong, or the user is disabled")
