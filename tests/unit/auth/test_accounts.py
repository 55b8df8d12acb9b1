"""Users, projects, domains, roles and assignments as units of work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select

from kilonova.auth import assignments, domains, projects, roles, users
from kilonova.auth.assignments import SYSTEM, AssignmentFilter, Target
from kilonova.auth.bootstrap import Administrator
from kilonova.auth.listing import Filter, page_of
from kilonova.auth.login import Reference, Scope, by_password
from kilonova.auth.manager import AuthManager
from kilonova.auth.projects import TagFilter
from kilonova.auth.users import User
from kilonova.errors import AlreadyExists, BadRequest, Forbidden, InUse, NotFound, Unauthorized
from kilonova.store import schema
from kilonova.store.paging import Page, SortKey


async def test_what_does_not_exist_is_named(auth: AuthManager, admin: Administrator) -> None:
    for unit in (
        users.find,
        users.password_hash,
        users.remove,
        projects.find,
        projects.remove,
        domains.find,
        roles.find,
    ):
        with pytest.raises(NotFound, match="no-such"):
            await auth.change(unit, "no-such")
    with pytest.raises(NotFound, match="no-such"):
        await auth.store.read(users.find_by_name, "no-such", "default")
    with pytest.raises(NotFound, match="no-such"):
        await auth.change(users.create, name="bob", domain_id="no-such")
    with pytest.raises(NotFound, match="no-such"):
        await auth.change(projects.create, name="web", domain_id="no-such")


async def test_a_taken_name_is_named(auth: AuthManager, alice: User) -> None:
    bob = await auth.change(users.create, name="bob", domain_id="default")
    with pytest.raises(AlreadyExists, match="alice"):
        await auth.change(users.create, name="alice", domain_id="default")
    with pytest.raises(AlreadyExists, match="alice"):
        await auth.change(users.change, bob.id, {"name": "alice"})
    web = await auth.change(projects.create, name="web", domain_id="default")
    with pytest.raises(AlreadyExists, match="admin"):
        await auth.change(projects.create, name="admin", domain_id="default")
    with pytest.raises(AlreadyExists, match="admin"):
        await auth.change(projects.change, web.id, {"name": "admin"})
    second = await auth.change(domains.create, name="second")
    with pytest.raises(AlreadyExists, match="Default"):
        await auth.change(domains.create, name="Default")
    with pytest.raises(AlreadyExists, match="Default"):
        await auth.change(domains.change, second.id, {"name": "Default"})
    zap = await auth.change(roles.create, name="zap")
    with pytest.raises(AlreadyExists, match="member"):
        await auth.change(roles.create, name="member")
    with pytest.raises(AlreadyExists, match="member"):
        await auth.change(roles.change, zap.id, {"name": "member"})


async def test_the_same_name_may_exist_in_two_domains(auth: AuthManager, alice: User) -> None:
    second = await auth.change(domains.create, name="second")
    other = await auth.change(users.create, name="alice", domain_id=second.id)
    assert (await auth.store.read(users.find_by_name, "alice", "default")).id == alice.id
    assert (await auth.store.read(users.find_by_name, "alice", second.id)).id == other.id


async def test_changing_nothing_changes_nothing(auth: AuthManager, alice: User) -> None:
    assert await auth.change(users.change, alice.id, {}) == alice
    project = await auth.change(projects.create, name="web", domain_id="default")
    assert await auth.change(projects.change, project.id, {}) == project
    assert (await auth.change(domains.change, "default", {})).name == "Default"
    zap = await auth.change(roles.create, name="zap")
    assert await auth.change(roles.change, zap.id, {}) == zap


@pytest.mark.parametrize("change", [{"password_hash": "new"}, {"enabled": False}])
async def test_a_new_password_or_disabling_voids_tokens(auth: AuthManager, alice: User, change: dict[str, Any]) -> None:
    text, _ = await by_password(auth, Reference(id=alice.id), "alice's password", Scope())
    await auth.change(users.change, alice.id, change)
    with pytest.raises(Unauthorized):
        auth.read(text)


async def test_a_new_description_voids_nothing(auth: AuthManager, alice: User) -> None:
    text, _ = await by_password(auth, Reference(id=alice.id), "alice's password", Scope())
    await auth.change(users.change, alice.id, {"description": "new", "enabled": True})
    auth.read(text)


async def test_deleting_a_user_voids_tokens_and_takes_assignments_along(
    auth: AuthManager, admin: Administrator, alice: User
) -> None:
    reader = await _role(auth, "reader")
    await auth.change(assignments.grant, alice.id, Target("project", admin.project_id), reader)
    text, _ = await by_password(auth, Reference(id=alice.id), "alice's password", Scope())
    await auth.change(users.remove, alice.id)
    with pytest.raises(Unauthorized):
        auth.read(text)
    assert not await auth.store.read(assignments.listing, AssignmentFilter(user_id=alice.id))


async def test_one_of_two_concurrent_password_changes_is_refused(auth: AuthManager, alice: User) -> None:
    old = await auth.store.read(users.password_hash, alice.id)
    assert old is not None
    await auth.change(users.replace_password, alice.id, old_hash=old, new_hash="first")
    with pytest.raises(Unauthorized):
        await auth.change(users.replace_password, alice.id, old_hash=old, new_hash="second")


async def test_lists_are_filtered_sorted_and_paged(auth: AuthManager, admin: Administrator) -> None:
    for name in ("web-b", "web-a", "db%1", "DB-2"):
        await auth.change(projects.create, name=name, domain_id="default")

    async def names(*filters: Filter, page: Page | None = None) -> list[str]:
        return [p.name for p in await auth.store.read(projects.listing, list(filters), page or Page())]

    assert await names() == ["DB-2", "admin", "db%1", "web-a", "web-b"]
    assert await names(Filter("name", "web-", "startswith")) == ["web-a", "web-b"]
    assert await names(Filter("name", "%", "contains")) == ["db%1"]
    assert await names(Filter("name", "db", "istartswith")) == ["DB-2", "db%1"]
    assert await names(Filter("name", "web-a")) == ["web-a"]
    assert await names(Filter("enabled", False)) == []
    assert await names(page=Page(2, None, (SortKey("name", True),))) == ["web-b", "web-a"]
    marker = (await auth.store.read(projects.find_by_name, "web-a", "default")).id
    assert await names(page=Page(None, marker)) == ["web-b"]
    with pytest.raises(ValueError, match="enabled"):
        await names(Filter("enabled", True, "contains"))


def test_tags_are_filtered_as_sets() -> None:
    tags = ["red", "blue"]
    assert TagFilter().is_empty
    assert TagFilter(every=frozenset({"red"})).accepts(tags)
    assert not TagFilter(every=frozenset({"red", "green"})).accepts(tags)
    assert TagFilter(some=frozenset({"red", "green"})).accepts(tags)
    assert not TagFilter(some=frozenset({"green"})).accepts(tags)
    assert TagFilter(not_every=frozenset({"red", "green"})).accepts(tags)
    assert not TagFilter(not_every=frozenset({"red"})).accepts(tags)
    assert not TagFilter(none=frozenset({"red", "green"})).accepts(tags)


async def test_projects_are_found_by_tag_within_a_page(auth: AuthManager, admin: Administrator) -> None:
    for name in ("a", "b", "c"):
        await auth.change(projects.create, name=name, domain_id="default", tags=[name, "all"])
    found = await auth.store.read(projects.listing, [], Page(2), TagFilter(every=frozenset({"all"})))
    assert [project.name for project in found] == ["a", "b"]


async def test_a_parent_must_be_in_the_domain(auth: AuthManager, admin: Administrator) -> None:
    second = await auth.change(domains.create, name="second")
    with pytest.raises(BadRequest, match="parent_id"):
        await auth.change(projects.create, name="web", domain_id=second.id, parent_id=admin.project_id)
    child = await auth.change(projects.create, name="web", domain_id="default", parent_id=admin.project_id)
    with pytest.raises(Forbidden, match="below"):
        await auth.change(projects.remove, admin.project_id)
    await auth.change(projects.remove, child.id)


async def test_a_project_with_resources_is_kept_and_the_error_lists_them(auth: AuthManager, alice: User) -> None:
    project = await auth.change(projects.create, name="web", domain_id="default")

    def fill(tx: Connection) -> None:
        values = {"project_id": project.id, "name": "x"}
        tx.execute(insert(schema.images).values(id="i1", status="queued", **values))
        tx.execute(insert(schema.routers).values([{"id": f"r{n}", **values} for n in (1, 2)]))

    await auth.store.write(fill)
    with pytest.raises(InUse, match="still has 2 routers, 1 images"):
        await auth.change(projects.remove, project.id)
    assert await auth.store.read(projects.find, project.id) == project


async def test_a_deleted_project_leaves_nothing_behind(auth: AuthManager, alice: User) -> None:
    project = await auth.change(projects.create, name="web", domain_id="default")
    await auth.change(assignments.grant, alice.id, Target("project", project.id), await _role(auth, "member"))
    await auth.change(users.change, alice.id, {"default_project_id": project.id})

    def fill(tx: Connection) -> None:
        tx.execute(insert(schema.quotas).values(project_id=project.id, resource="cores", hard_limit=1))
        tx.execute(
            insert(schema.security_groups).values(id="g", project_id=project.id, name="default", is_default=True)
        )

    await auth.store.write(fill)
    text, _ = await by_password(auth, Reference(id=alice.id), "alice's password", Scope())
    await auth.change(projects.remove, project.id)
    with pytest.raises(Unauthorized):
        auth.read(text)

    def left(tx: Connection) -> int:
        owned = (schema.quotas, schema.security_groups)
        counts = [tx.scalar(select(func.count()).select_from(t).where(t.c.project_id == project.id)) for t in owned]
        target = schema.role_assignments.c.target_id == project.id
        counts.append(tx.scalar(select(func.count()).select_from(schema.role_assignments).where(target)))
        return sum(count or 0 for count in counts)

    assert await auth.store.read(left) == 0
    assert (await auth.store.read(users.find, alice.id)).default_project_id is None


async def test_a_domain_is_disabled_before_it_is_deleted(auth: AuthManager, admin: Administrator) -> None:
    domain = await auth.change(domains.create, name="second")
    top = await auth.change(projects.create, name="top", domain_id=domain.id)
    await auth.change(projects.create, name="below", domain_id=domain.id, parent_id=top.id)
    user = await auth.change(users.create, name="alice", domain_id=domain.id)
    await auth.change(assignments.grant, user.id, Target("domain", domain.id), await _role(auth, "reader"))
    with pytest.raises(Forbidden, match="disable it"):
        await auth.change(domains.remove, domain.id)
    await auth.change(domains.change, domain.id, {"enabled": False})
    await auth.change(domains.remove, domain.id)
    for unit, resource_id in ((domains.find, domain.id), (projects.find, top.id), (users.find, user.id)):
        with pytest.raises(NotFound):
            await auth.store.read(unit, resource_id)


async def test_the_default_domain_stays(auth: AuthManager, admin: Administrator) -> None:
    with pytest.raises(Forbidden, match="default domain"):
        await auth.change(domains.remove, "default")


async def test_domains_of_a_user(auth: AuthManager, alice: User) -> None:
    assert await auth.store.read(domains.listing_of_user, alice.id, [], Page()) == []
    await auth.change(assignments.grant, alice.id, Target("domain", "default"), await _role(auth, "reader"))
    found = await auth.store.read(domains.listing_of_user, alice.id, [], Page())
    assert [domain.id for domain in found] == ["default"]


async def test_standard_roles_stay_as_they_are(auth: AuthManager, admin: Administrator) -> None:
    member = await _role(auth, "member")
    with pytest.raises(Forbidden):
        await auth.change(roles.remove, member)
    with pytest.raises(Forbidden):
        await auth.change(roles.change, member, {"name": "other"})
    assert (await auth.change(roles.change, member, {"description": "new"})).description == "new"


async def test_deleting_a_role_voids_the_tokens_that_carry_it(auth: AuthManager, alice: User) -> None:
    zap = await auth.change(roles.create, name="zap")
    project = await auth.change(projects.create, name="web", domain_id="default")
    await auth.change(assignments.grant, alice.id, Target("project", project.id), zap.id)
    scope = Scope(project=Reference(id=project.id))
    text, token = await by_password(auth, Reference(id=alice.id), "alice's password", scope)
    assert [role.name for role in token.roles] == ["zap"]
    await auth.change(roles.remove, zap.id)
    with pytest.raises(Unauthorized):
        auth.read(text)


async def test_an_assignment_is_given_once_and_taken_back_once(auth: AuthManager, alice: User) -> None:
    member = await _role(auth, "member")
    project = await auth.change(projects.create, name="web", domain_id="default")
    for target in (Target("project", project.id), Target("domain", "default"), SYSTEM):
        await auth.change(assignments.grant, alice.id, target, member)
        await auth.change(assignments.grant, alice.id, target, member)
        await auth.store.read(assignments.check, alice.id, target, member)
        await auth.change(assignments.withdraw, alice.id, target, member)
        with pytest.raises(NotFound, match="role assignment"):
            await auth.change(assignments.withdraw, alice.id, target, member)


@pytest.mark.parametrize(
    ("user", "target", "role", "named"),
    [
        ("nobody", SYSTEM, None, "user: nobody"),
        (None, Target("project", "nothing"), None, "project: nothing"),
        (None, Target("domain", "nothing"), None, "domain: nothing"),
        (None, SYSTEM, "no-role", "role: no-role"),
    ],
)
async def test_an_assignment_names_what_does_not_exist(
    auth: AuthManager, alice: User, user: str | None, target: Target, role: str | None, named: str
) -> None:
    with pytest.raises(NotFound, match=named):
        await auth.change(assignments.grant, user or alice.id, target, role or await _role(auth, "member"))


async def test_assignments_are_listed_by_user_role_and_target(
    auth: AuthManager, admin: Administrator, alice: User
) -> None:
    manager = await _role(auth, "manager")
    reader = await _role(auth, "reader")
    project = Target("project", admin.project_id)
    await auth.change(assignments.grant, alice.id, project, manager)
    await auth.change(assignments.grant, alice.id, Target("domain", "default"), reader)

    async def listed(wanted: AssignmentFilter, effective: bool = False) -> list[tuple[str, str, str]]:
        found = await auth.store.read(assignments.listing, wanted, effective=effective)
        return [(each.user.name, each.target.type, each.role.name) for each in found]

    of_alice = AssignmentFilter(user_id=alice.id)
    assert await listed(of_alice) == [("alice", "domain", "reader"), ("alice", "project", "manager")]
    assert await listed(replace(of_alice, target=project), effective=True) == [
        ("alice", "project", "manager"),
        ("alice", "project", "member"),
        ("alice", "project", "reader"),
    ]
    assert await listed(AssignmentFilter(role_id=reader)) == [("alice", "domain", "reader")]
    assert ("alice", "project", "reader") in await listed(AssignmentFilter(role_id=reader), effective=True)
    assert await listed(AssignmentFilter(target=SYSTEM)) == [("admin", "system", "admin")]


async def test_pages_know_only_columns_of_the_table(auth: AuthManager, admin: Administrator) -> None:
    with pytest.raises(BadRequest, match="sort_key"):
        await auth.store.read(page_of, select(schema.roles), schema.roles, [], Page(None, None, (SortKey("colour"),)))


async def _role(auth: AuthManager, name: str) -> str:
    found = await auth.store.read(roles.listing, [Filter("name", name)], Page())
    return found[0].id
