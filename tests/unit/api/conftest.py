"""The services behind every API: a cloud and an auth manager with the rows of a first start, and ways to ask them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from kilonova.api.routing import Services
from kilonova.auth import bootstrap
from kilonova.auth.bootstrap import Administrator
from kilonova.auth.manager import AuthManager
from kilonova.auth.tokens import Named
from kilonova.cloud.controller import Cloud

TokenOf = Callable[..., str]


@pytest.fixture
async def auth(cloud: Cloud) -> AsyncIterator[AuthManager]:
    manager = AuthManager(cloud.store, cloud.config)
    await manager.start()
    yield manager
    await manager.stop()


@pytest.fixture
def services(cloud: Cloud, auth: AuthManager) -> Services:
    return Services(cloud, auth, cloud.config)


@pytest.fixture
async def admin(auth: AuthManager) -> Administrator:
    """The administrator of a bootstrapped cloud; no password opens the account."""
    return await auth.change(bootstrap.bootstrap, "no password matches this hash")


@pytest.fixture
def token_of(auth: AuthManager) -> TokenOf:
    """Tokens of users that need no rows: `token_of("member", project_id="p1")`."""

    def token(*roles: str, user_id: str = "u1", project_id: str | None = "p1") -> str:
        domain = Named("default", "Default")
        text, _ = auth.issue(
            user=Named(user_id, user_id),
            user_domain=domain,
            methods=("password",),
            project=None if project_id is None else Named(project_id, project_id),
            project_domain=None if project_id is None else domain,
            roles=tuple(Named(role, role) for role in roles),
        )
        return text

    return token
