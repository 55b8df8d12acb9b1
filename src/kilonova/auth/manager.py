"""The auth manager of one process: issues tokens, checks them without a database query, and revokes them.

Signing keys and revocations are held in memory and refreshed every `REFRESH_S` seconds: a revocation holds at once in
the process that made it and within `REFRESH_S` in the others. What changes users, projects and assignments is in this
package's other modules, as units of work; run them with `change`: the revocations they make hold when it returns.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from kilonova.auth import bootstrap, revocations, signing_keys, tokens
from kilonova.auth.catalog import SERVED, Service
from kilonova.auth.passwords import Passwords
from kilonova.auth.tokens import Named, Token
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import Unauthorized
from kilonova.ids import ProjectId, RequestId, UserId
from kilonova.store.database import Store

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

REFRESH_S = 2.0
SERVICE = Named("kilonova", "kilonova")
"""The cloud itself as a user and as a project, for its internal requests; it has no rows and no password."""
SERVICE_TOKEN_S = 600.0


class AuthManager:
    """`start` before use. `authenticate`, `read`, `issue` and `service_token` are synchronous and touch no database."""

    def __init__(self, store: Store, config: Config, services: Sequence[Service] = SERVED) -> None:
        """`services` is what the catalog lists."""
        self.store = store
        self.services = tuple(services)
        self.passwords = Passwords()
        self._lifetime_us = int(min(config.api.token_lifetime_s, revocations.LONGEST_TOKEN.total_seconds()) * 1e6)
        self._keys: dict[str, bytes] = {}
        self._revocations = revocations.Revocations()
        self._refresher: asyncio.Task[None] | None = None
        self._service_token: tuple[str, float] = ("", 0.0)

    async def start(self) -> None:
        """Load keys (making the first one) and revocations, and keep them fresh."""
        self._keys = await self.store.write(signing_keys.ensure)
        await self.refresh()
        self._refresher = asyncio.create_task(self._refresh_always(), name="auth-refresh")

    async def stop(self) -> None:
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)
            self._refresher = None
        self.passwords.close()

    async def bootstrap(self, admin_password: str | None) -> bootstrap.Administrator:
        """Make the default domain, the standard roles and the user and project `admin` where they are missing.

        A password that is given becomes the administrator's, unless it is that already; none leaves it as it is.
        Raises `Unavailable` without a password before there is an administrator.
        """
        known = await self.store.read(bootstrap.administrator)
        new_hash: str | None = None
        if admin_password is not None and not (
            known is not None and await self.passwords.matches(admin_password, known[1])
        ):
            new_hash = await self.passwords.hash(admin_password)
        return await self.change(bootstrap.bootstrap, new_hash)

    async def refresh(self) -> None:
        """Learn what other processes have revoked and the keys they sign with."""

        def load(tx: Connection) -> tuple[dict[str, bytes], list[revocations.Revocation]]:
            return signing_keys.load(tx), revocations.load(tx, self._revocations.since)

        self._keys, rows = await self.store.read(load)
        self._revocations.learn(rows)

    async def _refresh_always(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
            except SQLAlchemyError:
                log.exception("revocations could not be read: those made elsewhere do not hold here until they can")

    def authenticate(self, token: str, request_id: RequestId) -> Context:
        """The caller that a token's text stands for. Raises `Unauthorized`."""
        said = self.read(token)
        domain = said.project_domain or said.domain or said.user_domain
        return Context(
            request_id=request_id,
            user_id=UserId(said.user.id),
            user_name=said.user.name,
            project_id=None if said.project is None else ProjectId(said.project.id),
            project_name="" if said.project is None else said.project.name,
            domain_id=domain.id,
            roles=frozenset(role.name for role in said.roles),
            token_id=said.id,
        )

    def read(self, token: str) -> Token:
        """What a valid token says. Raises `Unauthorized` when it is forged, expired or revoked."""
        said = tokens.verify(token, self._keys)
        if said.expires_us <= time.time_ns() // 1000:
            raise Unauthorized("The token has expired: ask for a new one at /identity/v3/auth/tokens")
        if self._revocations.void(said):
            raise Unauthorized("The token was revoked: ask for a new one at /identity/v3/auth/tokens")
        return said

    def issue(
        self,
        *,
        user: Named,
        user_domain: Named,
        methods: tuple[str, ...],
        project: Named | None = None,
        project_domain: Named | None = None,
        domain: Named | None = None,
        system: bool = False,
        roles: tuple[Named, ...] = (),
        parent: Token | None = None,
        issued_us: int | None = None,
    ) -> tuple[str, Token]:
        """A new token as text and as what it says; one made from a `parent` expires with it.

        `issued_us` is when the store said what the token says; none: now.
        """
        moment = time.time_ns() // 1000 if issued_us is None else issued_us
        token = Token(
            id=tokens.new_token_id(),
            user=user,
            user_domain=user_domain,
            methods=methods,
            issued_us=moment,
            expires_us=moment + self._lifetime_us if parent is None else parent.expires_us,
            project=project,
            project_domain=project_domain,
            domain=domain,
            system=system,
            roles=roles,
            parent_id="" if parent is None else parent.parent_id or parent.id,
        )
        return self._sign(token), token

    def service_token(self) -> str:
        """A short-lived token of the cloud itself (roles admin and service), made again when half its life is over."""
        text, renew_at = self._service_token
        if time.monotonic() >= renew_at:
            moment = time.time_ns() // 1000
            domain = Named("default", "Default")
            token = Token(
                id=tokens.new_token_id(),
                user=SERVICE,
                user_domain=domain,
                methods=("service",),
                issued_us=moment,
                expires_us=moment + int(SERVICE_TOKEN_S * 1e6),
                project=SERVICE,
                project_domain=domain,
                roles=(Named("admin", "admin"), Named("service", "service")),
            )
            text = self._sign(token)
            self._service_token = (text, time.monotonic() + SERVICE_TOKEN_S / 2)
        return text

    def _sign(self, token: Token) -> str:
        if not self._keys:
            raise Unauthorized("The auth manager has not started: it has no signing key yet")
        key_id = next(reversed(self._keys))
        return tokens.sign(token, key_id, self._keys[key_id])

    async def revoke(self, token: str) -> None:
        """Void one token. Raises `Unauthorized` when it is not valid (any more)."""
        await self.change(revocations.revoke, revocations.of_token(self.read(token).id))

    async def change(self, unit: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit of work of this package; the revocations it makes hold in this process when it returns."""
        answer = await self.store.write(unit, *args, **kwargs)
        await self.refresh()
        return answer
