"""The auth manager: what it lets in, what it voids, and how soon other processes know."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from kilonova.auth import bootstrap, manager, projects, revocations, signing_keys, users
from kilonova.auth.bootstrap import Administrator
from kilonova.auth.login import Reference, Scope, by_password
from kilonova.auth.manager import AuthManager
from kilonova.auth.tokens import Named
from kilonova.config import ApiConfig, Config
from kilonova.errors import Unauthorized, Unavailable
from kilonova.ids import RequestId
from kilonova.store.database import Store

REQUEST = RequestId("req-1")
DEFAULT = Named("default", "Default")


def _issue(auth: AuthManager, user_id: str = "u1", project_id: str | None = "p1") -> str:
    text, _ = auth.issue(
        user=Named(user_id, "someone"),
        user_domain=DEFAULT,
        methods=("password",),
        project=None if project_id is None else Named(project_id, "web"),
        project_domain=None if project_id is None else DEFAULT,
        roles=(Named("r1", "member"),),
    )
    return text


def test_a_token_says_who_asks(auth: AuthManager) -> None:
    context = auth.authenticate(_issue(auth), REQUEST)
    assert (context.user_id, context.project_id, context.project_name) == ("u1", "p1", "web")
    assert (context.request_id, context.domain_id, context.roles) == (REQUEST, "default", frozenset({"member"}))
    assert context.token_id


def test_an_unscoped_token_has_no_project(auth: AuthManager) -> None:
    context = auth.authenticate(_issue(auth, project_id=None), REQUEST)
    assert (context.project_id, context.project_name) == (None, "")


def test_authentication_asks_no_database(auth: AuthManager, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _issue(auth)
    monkeypatch.setattr(auth, "store", SimpleNamespace())
    auth.authenticate(text, REQUEST)


async def test_a_manager_that_has_not_started_issues_nothing(store: Store, tmp_path: Path) -> None:
    manager = AuthManager(store, Config(state_dir=tmp_path))
    with pytest.raises(Unauthorized, match="not started"):
        _issue(manager)
    await manager.stop()


async def test_an_expired_token_is_refused(store: Store, tmp_path: Path) -> None:
    manager = AuthManager(store, Config(state_dir=tmp_path, api=ApiConfig(token_lifetime_s=0)))
    await manager.start()
    with pytest.raises(Unauthorized, match="expired"):
        manager.authenticate(_issue(manager), REQUEST)
    await manager.stop()


async def test_a_revoked_token_is_refused_and_others_of_the_user_are_not(auth: AuthManager) -> None:
    revoked, other = _issue(auth), _issue(auth)
    await auth.revoke(revoked)
    with pytest.raises(Unauthorized, match="revoked"):
        auth.authenticate(revoked, REQUEST)
    auth.authenticate(other, REQUEST)


@pytest.mark.parametrize(
    "subject",
    [
        revocations.of_user("u1"),
        revocations.of_project("p1"),
        revocations.of_domain("default"),
        revocations.of_grant("u1", "p1"),
    ],
)
async def test_revoking_a_subject_voids_what_was_issued_before_and_not_after(auth: AuthManager, subject: str) -> None:
    before = _issue(auth)
    await auth.change(revocations.revoke, subject)
    with pytest.raises(Unauthorized):
        auth.authenticate(before, REQUEST)
    auth.authenticate(_issue(auth), REQUEST)


async def test_revoking_a_subject_spares_others(auth: AuthManager) -> None:
    text = _issue(auth)
    for subject in (revocations.of_user("u2"), revocations.of_project("p2"), revocations.of_grant("u1", "p2")):
        await auth.change(revocations.revoke, subject)
    auth.authenticate(text, REQUEST)


async def test_domain_and_system_tokens_are_voided_with_their_grant(auth: AuthManager) -> None:
    user = Named("u1", "someone")
    on_domain, _ = auth.issue(user=user, user_domain=DEFAULT, methods=("password",), domain=Named("d2", "second"))
    on_system, _ = auth.issue(user=user, user_domain=DEFAULT, methods=("password",), system=True)
    elsewhere, _ = auth.issue(
        user=user, user_domain=DEFAULT, methods=("password",), project=Named("p", "p"), project_domain=Named("d3", "d3")
    )
    for text, subject in (
        (on_domain, revocations.of_grant("u1", "d2")),
        (on_system, revocations.of_grant("u1", "all")),
        (elsewhere, revocations.of_domain("d3")),
    ):
        auth.read(text)
        await auth.change(revocations.revoke, subject)
        with pytest.raises(Unauthorized):
            auth.read(text)


async def test_another_process_sees_keys_and_revocations(
    auth: AuthManager, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "REFRESH_S", 0.01)
    other = AuthManager(store, Config(state_dir=tmp_path))
    await other.start()
    text = _issue(auth)
    other.authenticate(text, REQUEST)
    await auth.revoke(text)
    async with asyncio.timeout(5):
        while True:
            try:
                other.authenticate(text, REQUEST)
            except Unauthorized:
                break
            await asyncio.sleep(0.01)
    await other.stop()


async def test_the_refresh_survives_a_store_that_fails(
    auth: AuthManager, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    monkeypatch.setattr(manager, "REFRESH_S", 0.01)
    other = AuthManager(store, Config(state_dir=tmp_path))
    await other.start()
    failed = asyncio.Event()
    real = other.refresh

    async def refresh() -> None:
        if not failed.is_set():
            failed.set()
            raise SQLAlchemyError("disk I/O error")
        await real()
        recovered.set()

    recovered = asyncio.Event()
    monkeypatch.setattr(other, "refresh", refresh)
    async with asyncio.timeout(5):
        await recovered.wait()
    assert failed.is_set()
    await other.stop()


async def test_two_starts_make_one_key(store: Store, tmp_path: Path) -> None:
    managers = [AuthManager(store, Config(state_dir=tmp_path)) for _ in range(2)]
    await asyncio.gather(*(each.start() for each in managers))
    assert len(await store.read(signing_keys.load)) == 1
    managers[0].authenticate(_issue(managers[1]), REQUEST)
    for each in managers:
        await each.stop()


def test_a_service_token_is_kept_until_half_of_its_life_is_over(
    auth: AuthManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = auth.service_token()
    assert auth.service_token() == first
    assert auth.authenticate(first, REQUEST).roles == {"admin", "service"}
    later = time.monotonic() + manager.SERVICE_TOKEN_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert auth.service_token() != first


async def test_expired_revocations_are_forgotten(auth: AuthManager, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    monkeypatch.setattr(revocations, "LONGEST_TOKEN", timedelta(seconds=-1))
    await auth.change(revocations.revoke, "user:old")
    monkeypatch.undo()
    await auth.change(revocations.revoke, "user:new")
    assert [subject for subject, _, _ in await auth.store.read(revocations.load)] == ["user:new"]
    assert list(auth._revocations._expires) == ["user:new"]


async def test_bootstrap_happens_once(auth: AuthManager) -> None:
    first = await auth.bootstrap("one password")
    text, _ = await by_password(auth, Reference(id=first.user_id), "one password", Scope())
    assert await auth.bootstrap("one password") == first
    assert await auth.bootstrap(None) == first
    assert auth.authenticate(text, REQUEST).roles == {"admin", "manager", "member", "reader"}


async def test_bootstrap_with_another_password_sets_it_and_voids_tokens(auth: AuthManager) -> None:
    admin = await auth.bootstrap("one password")
    text, _ = await by_password(auth, Reference(id=admin.user_id), "one password", Scope())
    await auth.change(users.change, admin.user_id, {"enabled": False})
    await auth.bootstrap("another password")
    with pytest.raises(Unauthorized):
        auth.authenticate(text, REQUEST)
    await by_password(auth, Reference(id=admin.user_id), "another password", Scope())


async def test_bootstrap_without_a_password_needs_an_administrator(auth: AuthManager) -> None:
    with pytest.raises(Unavailable, match="--admin-password"):
        await auth.bootstrap(None)


async def test_bootstrap_makes_again_what_was_deleted(auth: AuthManager, admin: Administrator) -> None:
    await auth.change(projects.remove, admin.project_id)
    again = await auth.change(bootstrap.bootstrap, None)
    assert again.user_id == admin.user_id
    assert again.project_id != admin.project_id


async def test_passwords_longer_than_the_longest_never_match(auth: AuthManager) -> None:
    long = "x" * 5000
    assert not await auth.passwords.matches(long, await auth.passwords.hash(long))
    assert not await auth.passwords.matches("any", "not a hash")
    assert not await auth.passwords.matches("any", None)
