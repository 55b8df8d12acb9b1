"""Which tokens are void before they expire.

A revocation names a subject (one token, or all tokens of a user, project, domain or of a user on one target) and a
moment: tokens of the subject issued up to it are void. Rows live until no such token can be unexpired. `Revocations` is
the copy in a process's memory that every request is checked against.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from kilonova.auth.tokens import Token
from kilonova.store.schema import now, revocations

LONGEST_TOKEN = timedelta(days=1)
"""No token lives longer; the configured lifetime is capped to it."""

OVERLAP = timedelta(seconds=60)
"""How far a refresh reads back behind the newest row it knows: later commits may carry earlier times."""

Revocation = tuple[str, datetime, datetime]
"""Subject, revoked at, expires at."""


def of_token(token_id: str) -> str:
    return f"token:{token_id}"


def of_user(user_id: str) -> str:
    return f"user:{user_id}"


def of_project(project_id: str) -> str:
    return f"project:{project_id}"


def of_domain(domain_id: str) -> str:
    """Tokens of the domain's users, on its projects and on itself."""
    return f"domain:{domain_id}"


def of_grant(user_id: str, target_id: str) -> str:
    """A user's tokens on one project, one domain, or (`all`) the system."""
    return f"grant:{user_id}:{target_id}"


def revoke(tx: Connection, subject: str) -> None:
    """Void the subject's tokens issued up to now, and forget revocations that have outlived their tokens."""
    moment = now()
    values = {"revoked_at": moment, "expires_at": moment + LONGEST_TOKEN}
    tx.execute(delete(revocations).where(revocations.c.expires_at < moment))
    if not tx.execute(update(revocations).where(revocations.c.subject == subject).values(values)).rowcount:
        tx.execute(insert(revocations).values(subject=subject, **values))


def load(tx: Connection, since: datetime | None = None) -> list[Revocation]:
    """All revocations, or those revoked at or after `since`."""
    query = select(revocations.c.subject, revocations.c.revoked_at, revocations.c.expires_at)
    if since is not None:
        query = query.where(revocations.c.revoked_at >= since)
    return [(row.subject, row.revoked_at, row.expires_at) for row in tx.execute(query)]


class Revocations:
    """The revocations known to this process."""

    def __init__(self) -> None:
        self._revoked_us: dict[str, int] = {}
        self._expires: dict[str, datetime] = {}
        self._newest: datetime | None = None

    @property
    def since(self) -> datetime | None:
        """From when on the store may hold rows that are not known here; none: all of them."""
        return None if self._newest is None else self._newest - OVERLAP

    def learn(self, rows: list[Revocation]) -> None:
        """Add rows of the store and drop what has expired."""
        for subject, revoked_at, expires_at in rows:
            self._revoked_us[subject] = round(revoked_at.timestamp() * 1e6)
            self._expires[subject] = expires_at
            self._newest = revoked_at if self._newest is None else max(self._newest, revoked_at)
        moment = now()
        for subject in [subject for subject, expires_at in self._expires.items() if expires_at < moment]:
            del self._expires[subject], self._revoked_us[subject]

    def void(self, token: Token) -> bool:
        """Whether a revocation hits the token."""
        return any(self._revoked_us.get(subject, -1) >= token.issued_us for subject in _subjects(token))


def _subjects(token: Token) -> Iterator[str]:
    yield of_token(token.id)
    yield of_user(token.user.id)
    yield of_domain(token.user_domain.id)
    if token.project is not None:
        yield of_project(token.project.id)
        yield of_grant(token.user.id, token.project.id)
        if token.project_domain is not None and token.project_domain.id != token.user_domain.id:
            yield of_domain(token.project_domain.id)
    elif token.domain is not None:
        yield of_domain(token.domain.id)
        yield of_grant(token.user.id, token.domain.id)
    elif token.system:
        yield of_grant(token.user.id, "all")
