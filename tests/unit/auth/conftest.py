"""A cloud's auth manager on a fresh store, bootstrapped without the cost of a password hash."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kilonova.auth import bootstrap, users
from kilonova.auth.bootstrap import Administrator
from kilonova.auth.domains import DEFAULT_ID
from kilonova.auth.manager import AuthManager
from kilonova.auth.passwords import Passwords
from kilonova.auth.users import User
from kilonova.config import Config
from kilonova.store.database import Store


@pytest.fixture(scope="session")
def alices_password_hash() -> str:
    return Passwords().hash_now("alice's password")


@pytest.fixture
async def auth(store: Store, config: Config) -> AsyncIterator[AuthManager]:
    manager = AuthManager(store, config)
    await manager.start()
    yield manager
    await manager.stop()


@pytest.fixture
async def admin(auth: AuthManager) -> Administrator:
    return await auth.change(bootstrap.bootstrap, "no password matches this hash")


@pytest.fixture
async def alice(auth: AuthManager, admin: Administrator, alices_password_hash: str) -> User:
    return await auth.change(users.create, name="alice", domain_id=DEFAULT_ID, password_hash=alices_password_hash)
