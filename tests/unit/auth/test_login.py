"""Logging in and changing scope."""

from __future__ import annotations

from typing import Any

import argon2.low_level
import pytest
from sqlalchemy import Connection, update

from kilonova.auth import assignments, domains, projects, roles, users
from kilonova.auth.assignments import SYSTEM, Target
from kilonova.auth.bootstrap import Administrator
from kilonova.auth.login import Reference, Scope, _account, _grant, _issue, by_password, by_token
from kilonova.auth.manager import AuthManager
from kilonova.auth.projects import Project
from kilonova.auth.users import User
from kilonova.errors import Unauthorized
from kilonova.store import schema
from kilonova.store.paging import Page

PASSWORD = "alice's password"


async def _role(auth: AuthManager, name: str) -> str:
    found = await auth.store.read(roles.listing, [], Page())
    return next(role.id for role in found if role.name == name)


@pytest.fixture
async def web(auth: AuthManager, alice: User) -> Project:
    """A project on which alice is a member."""
    project = await auth.change(projects.create, name="web", domain_id="default")
    await auth.change(assignments.grant, alice.id, Target("project", project.id), await _role(auth, "member"))
    return project


@pytest.mark.parametrize(
    "who",
    [
        Reference(name="alice", domain_id="default"),
        Reference(name="alice", domain_name="Default"),
    ],
)
async def test_a_password_opens_by_name(auth: AuthManager, alice: User, who: Reference) -> None:
    _, token = await by_password(auth, who, PASSWORD, Scope())
    assert (token.user.id, token.project, token.roles) == (alice.id, None, ())


@pytest.mark.parametrize(
    "scope",
    [
        Scope(project=Reference(name="web", domain_id="default")),
        Scope(project=Reference(name="web", domain_name="Default")),
    ],
)
async def test_a_project_scope_carries_the_roles_and_those_implied(
    auth: AuthManager, alice: User, web: Project, scope: Scope
) -> None:
    _, token = await by_password(auth, Reference(id=alice.id), PASSWORD, scope)
    assert token.project is not None
    assert token.project.id == web.id
    assert [role.name for role in token.roles] == ["member", "reader"]


async def test_a_wrong_password_an_unknown_user_and_a_disabled_one_look_alike(auth: AuthManager, alice: User) -> None:
    said: list[str] = []
    await auth.change(users.create, name="off", domain_id="default", enabled=False)
    for who in (Reference(id=alice.id), Reference(id="nobody"), Reference(name="off", domain_id="default")):
        with pytest.raises(Unauthorized) as refused:
            await by_password(auth, who, "wrong", Scope())
        said.append(refused.value.message)
    await auth.change(users.change, alice.id, {"enabled": False})
    with pytest.raises(Unauthorized) as refused:
        await by_password(auth, Reference(id=alice.id), PASSWORD, Scope())
    assert {*said, refused.value.message} == {said[0]}


@pytest.mark.parametrize("stored", [None, "a hash"])
async def test_an_unknown_user_costs_the_same_hash_as_a_wrong_password(
    auth: AuthManager, monkeypatch: pytest.MonkeyPatch, stored: str | None
) -> None:
    known = None if stored is None else await auth.passwords.hash(PASSWORD)
    hashed: list[object] = []
    compute = argon2.low_level.hash_secret
    verify = argon2.low_level.verify_secret

    def counted_hash(*args: Any, **kwargs: Any) -> bytes:
        hashed.append(kwargs or args)
        return compute(*args, **kwargs)

    def counted_verify(*args: Any, **kwargs: Any) -> bool:
        hashed.append(kwargs or args)
        return verify(*args, **kwargs)

    monkeypatch.setattr("argon2._password_hasher.hash_secret", counted_hash)
    monkeypatch.setattr("argon2._password_hasher.verify_secret", counted_verify)
    assert not await auth.passwords.matches("wrong", known)
    assert len(hashed) == 1


async def test_an_unknown_user_is_compared_too(auth: AuthManager, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str | None] = []
    matches = auth.passwords.matches

    async def seen(password: str, stored: str | None) -> bool:
        compared.append(stored)
        return await matches(password, stored)

    monkeypatch.setattr(auth.passwords, "matches", seen)
    with pytest.raises(Unauthorized):
        await by_password(auth, Reference(id="nobody"), "wrong", Scope())
    assert compared == [None]


async def test_a_user_of_a_disabled_domain_does_not_get_in(auth: AuthManager, alice: User) -> None:
    await auth.change(domains.change, "default", {"enabled": False})
    with pytest.raises(Unauthorized):
        await by_password(auth, Reference(id=alice.id), PASSWORD, Scope())


async def test_a_password_changed_between_check_and_scope_is_noticed(auth: AuthManager, alice: User) -> None:
    account = await auth.store.read(_account, Reference(id=alice.id))
    assert account is not None
    await auth.change(users.change, alice.id, {"password_hash": "another"})
    with pytest.raises(Unauthorized):
        await auth.store.read(_grant, account, Scope())


async def test_a_change_while_somebody_logs_in_voids_the_token(auth: AuthManager, alice: User) -> None:
    account = await auth.store.read(_account, Reference(id=alice.id))
    assert account is not None
    granted = await auth.store.write(_grant, account, Scope())
    await auth.change(users.change, alice.id, {"enabled": False})
    text, _ = _issue(auth, account, ("password",), granted)
    with pytest.raises(Unauthorized, match="revoked"):
        auth.read(text)


async def test_no_role_no_scope(auth: AuthManager, admin: Administrator, alice: User) -> None:
    for scope in (
        Scope(project=Reference(id=admin.project_id)),
        Scope(project=Reference(id="nothing")),
        Scope(domain=Reference(id="default")),
        Scope(domain=Reference(name="nothing")),
        Scope(system=True),
    ):
        with pytest.raises(Unauthorized, match="no access"):
            await by_password(auth, Reference(id=alice.id), PASSWORD, scope)


async def test_a_disabled_project_is_no_scope(auth: AuthManager, alice: User, web: Project) -> None:
    await auth.change(projects.change, web.id, {"enabled": False})
    with pytest.raises(Unauthorized):
        await by_password(auth, Reference(id=alice.id), PASSWORD, Scope(project=Reference(id=web.id)))


async def test_domain_and_system_scopes(auth: AuthManager, alice: User) -> None:
    reader = await _role(auth, "reader")
    await auth.change(assignments.grant, alice.id, Target("domain", "default"), reader)
    await auth.change(assignments.grant, alice.id, SYSTEM, reader)
    for which in (Reference(id="default"), Reference(name="Default")):
        _, token = await by_password(auth, Reference(id=alice.id), PASSWORD, Scope(domain=which))
        assert token.domain is not None
        assert token.domain.name == "Default"
    _, token = await by_password(auth, Reference(id=alice.id), PASSWORD, Scope(system=True))
    assert token.system
    assert [role.name for role in token.roles] == ["reader"]


async def test_the_default_project_is_the_scope_when_none_is_asked_for(
    auth: AuthManager, alice: User, web: Project
) -> None:
    await auth.change(users.change, alice.id, {"default_project_id": web.id})
    _, token = await by_password(auth, Reference(id=alice.id), PASSWORD, Scope())
    assert token.project is not None
    _, token = await by_password(auth, Reference(id=alice.id), PASSWORD, Scope(unscoped=True))
    assert token.project is None
    await auth.change(projects.change, web.id, {"enabled": False})
    _, token = await by_password(auth, Reference(id=alice.id), PASSWORD, Scope())
    assert token.project is None


async def test_a_token_changes_scope_and_keeps_its_end(auth: AuthManager, alice: User, web: Project) -> None:
    text, first = await by_password(auth, Reference(id=alice.id), PASSWORD, Scope())
    text, second = await by_token(auth, text, Scope(project=Reference(id=web.id)))
    _, third = await by_token(auth, text, Scope(unscoped=True))
    assert second.expires_us == third.expires_us == first.expires_us
    assert second.methods == ("password", "token")
    assert second.parent_id == third.parent_id == first.id


async def test_a_token_of_the_cloud_itself_cannot_change_scope(auth: AuthManager, admin: Administrator) -> None:
    with pytest.raises(Unauthorized):
        await by_token(auth, auth.service_token(), Scope(project=Reference(id=admin.project_id)))


async def test_taking_a_role_back_voids_the_tokens_on_that_project_only(
    auth: AuthManager, alice: User, web: Project
) -> None:
    unscoped, _ = await by_password(auth, Reference(id=alice.id), PASSWORD, Scope())
    scoped, _ = await by_token(auth, unscoped, Scope(project=Reference(id=web.id)))
    await auth.change(assignments.withdraw, alice.id, Target("project", web.id), await _role(auth, "member"))
    auth.read(unscoped)
    with pytest.raises(Unauthorized):
        auth.read(scoped)


async def test_the_default_project_survives_being_somebody_elses(auth: AuthManager, alice: User) -> None:
    def orphan(tx: Connection) -> None:
        tx.execute(update(schema.users).where(schema.users.c.id == alice.id).values(default_project_id="gone"))

    await auth.store.write(orphan)
    _, token = await by_password(auth, Reference(id=alice.id), PASSWORD, Scope())
    assert token.project is None
