"""The identity API, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from kilonova.api import root
from kilonova.api.identity import registry
from kilonova.api.routing import Services
from kilonova.api.server import application
from kilonova.auth.bootstrap import Administrator
from kilonova.auth.passwords import Passwords
from kilonova.store import schema

PASSWORD = "a user's password"
Document = dict[str, Any]


@pytest.fixture(scope="session")
def password_hash() -> str:
    return Passwords().hash_now(PASSWORD)


@dataclass
class Api:
    """A client that sends a token and checks the status."""

    client: httpx.AsyncClient
    token: str

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        status: int = 200,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        sent = {"X-Auth-Token": self.token if token is None else token, **(headers or {})}
        answer = await self.client.request(method, f"/identity{path}", json=body, headers=sent)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def refused(
        self, method: str, path: str, body: object = None, *, status: int, token: str | None = None
    ) -> str:
        """The message of an error."""
        error = (await self.ask(method, path, body, status=status, token=token))["error"]
        assert error["code"] == status
        assert error["title"]
        message: str = error["message"]
        return message

    async def log_in(self, user: Document, scope: object = None, status: int = 201) -> httpx.Response:
        """POST /v3/auth/tokens with the password of the tests."""
        identity = {"methods": ["password"], "password": {"user": {"password": PASSWORD, **user}}}
        auth = {"identity": identity} | ({} if scope is None else {"scope": scope})
        answer = await self.client.post("/identity/v3/auth/tokens", json={"auth": auth})
        assert answer.status_code == status, answer.text
        return answer

    async def role(self, name: str) -> str:
        (found,) = (await self.ask("GET", f"/v3/roles?name={name}"))["roles"]
        role_id: str = found["id"]
        return role_id


@pytest.fixture
async def api(services: Services, admin: Administrator, token_of: Callable[..., str]) -> AsyncIterator[Api]:
    transport = httpx.ASGITransport(app=application([registry, root.registry], services))
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
        yield Api(client, token_of("admin", user_id=admin.user_id, project_id=admin.project_id))


@pytest.fixture
async def alice(services: Services, admin: Administrator, password_hash: str) -> str:
    """The id of a user whose password the tests know, and who has no role."""

    def add(tx: Any) -> None:
        values = {"id": "a" * 32, "domain_id": "default", "name": "alice", "password_hash": password_hash}
        tx.execute(insert(schema.users).values(values))

    await services.auth.store.write(add)
    return "a" * 32


@pytest.fixture
async def web(api: Api, alice: str) -> str:
    """The id of a project on which alice is a member."""
    project = (await api.ask("POST", "/v3/projects", {"project": {"name": "web"}}, status=201))["project"]
    await api.ask("PUT", f"/v3/projects/{project['id']}/users/{alice}/roles/{await api.role('member')}", status=204)
    project_id: str = project["id"]
    return project_id


class TestVersions:
    async def test_the_root_offers_v3(self, api: Api) -> None:
        listed = await api.ask("GET", "", status=300)
        (version,) = listed["versions"]["values"]
        assert (version["id"], version["status"]) == ("v3.14", "stable")
        assert version["links"][0]["href"] == "http://cloud/identity/v3/"
        assert (await api.ask("GET", "/v3/"))["version"] == version


class TestTokens:
    async def test_a_password_and_a_project_by_name(self, api: Api, alice: str, web: str) -> None:
        domain = {"name": "Default"}
        answer = await api.log_in(
            {"name": "alice", "domain": domain}, {"project": {"name": "web", "domain": {"id": "default"}}}
        )
        token = answer.json()["token"]
        assert token["user"] == {
            "id": alice,
            "name": "alice",
            "domain": {"id": "default", "name": "Default"},
            "password_expires_at": None,
        }
        assert token["project"] == {"id": web, "name": "web", "domain": {"id": "default", "name": "Default"}}
        assert [role["name"] for role in token["roles"]] == ["member", "reader"]
        assert token["methods"] == ["password"]
        assert token["issued_at"] < token["expires_at"]
        assert token["expires_at"].endswith("Z")
        catalog = {service["type"]: service["endpoints"] for service in token["catalog"]}
        assert {endpoint["url"] for endpoint in catalog["compute"]} == {"http://127.0.0.1:8770/compute/v2.1"}
        assert {endpoint["interface"] for endpoint in catalog["network"]} == {"public", "internal", "admin"}
        assert answer.headers["vary"] == "X-Auth-Token"
        assert (await api.ask("GET", "/v3/auth/catalog", token=answer.headers["x-subject-token"]))["catalog"] == token[
            "catalog"
        ]

    async def test_an_unscoped_token_has_no_catalog(self, api: Api, alice: str) -> None:
        answer = await api.log_in({"id": alice}, "unscoped")
        assert not answer.json()["token"].keys() & {"project", "roles", "catalog", "domain", "system"}
        text = answer.headers["x-subject-token"]
        assert "scope" in await api.refused("GET", "/v3/auth/catalog", status=403, token=text)

    async def test_scopes_of_domain_and_system(self, api: Api, alice: str) -> None:
        reader = await api.role("reader")
        await api.ask("PUT", f"/v3/domains/default/users/{alice}/roles/{reader}", status=204)
        await api.ask("PUT", f"/v3/system/users/{alice}/roles/{reader}", status=204)
        answer = await api.log_in({"id": alice}, {"domain": {"name": "Default"}})
        assert answer.json()["token"]["domain"] == {"id": "default", "name": "Default"}
        answer = await api.log_in({"id": alice}, {"system": {"all": True}})
        assert answer.json()["token"]["system"] == {"all": True}
        text = answer.headers["x-subject-token"]
        reachable = await api.ask("GET", "/v3/auth/domains", token=text)
        assert [domain["name"] for domain in reachable["domains"]] == ["Default"]
        assert (await api.ask("GET", "/v3/auth/system", token=text))["system"] == [{"all": True}]

    async def test_rescoping_keeps_the_end(self, api: Api, alice: str, web: str) -> None:
        first = await api.log_in({"id": alice})
        identity = {"methods": ["token"], "token": {"id": first.headers["x-subject-token"]}}
        body = {"auth": {"identity": identity, "scope": {"project": {"id": web}}}}
        second = await api.client.post("/identity/v3/auth/tokens?nocatalog", json=body)
        token = second.json()["token"]
        assert token["expires_at"] == first.json()["token"]["expires_at"]
        assert token["methods"] == ["password", "token"]
        assert token["audit_ids"][1:] == first.json()["token"]["audit_ids"]
        assert "catalog" not in token

    @pytest.mark.parametrize(
        ("proof", "status", "named"),
        [
            ({"identity": {"methods": []}}, 400, "methods"),
            ({"identity": {"methods": ["password"]}}, 400, "password"),
            ({"identity": {"methods": ["token"]}}, 400, "token"),
            ({"identity": {"methods": ["oauth1"]}}, 401, "oauth1"),
            ({"identity": {"methods": ["token"], "token": {"id": "x"}}}, 401, "not valid"),
            ({"identity": {"methods": ["password"], "password": {"user": {"password": "x"}}}}, 400, "id, or a name"),
            (
                {"identity": {"methods": ["password"], "password": {"user": {"name": "alice", "password": "x"}}}},
                400,
                "domain",
            ),
            ({}, 400, "identity"),
        ],
    )
    async def test_a_malformed_proof_is_named(self, api: Api, proof: Document, status: int, named: str) -> None:
        assert named in await api.refused("POST", "/v3/auth/tokens", {"auth": proof}, status=status)

    @pytest.mark.parametrize(
        ("scope", "named"),
        [
            ({}, "exactly one"),
            ({"system": {"all": True}, "domain": {"id": "default"}}, "exactly one"),
            ({"project": {}}, "auth.scope.project"),
            ({"project": {"name": "web"}}, "auth.scope.project.domain"),
            ({"domain": {}}, "auth.scope.domain"),
            ("everything", "scope"),
        ],
    )
    async def test_a_malformed_scope_is_named(self, api: Api, alice: str, scope: object, named: str) -> None:
        answer = await api.log_in({"id": alice}, scope, status=400)
        assert named in answer.json()["error"]["message"]

    async def test_wrong_password_and_no_access(self, api: Api, alice: str) -> None:
        answer = await api.log_in({"id": alice, "password": "wrong"}, status=401)
        assert answer.headers["www-authenticate"].startswith("Keystone uri=")
        answer = await api.log_in({"id": alice}, {"project": {"id": "elsewhere"}}, status=401)
        assert "elsewhere" in answer.json()["error"]["message"]

    async def test_validation_says_what_the_token_is_good_for(self, api: Api, alice: str, web: str) -> None:
        answer = await api.log_in({"id": alice}, {"project": {"id": web}})
        text = answer.headers["x-subject-token"]
        for token in (api.token, text):
            assert (
                await api.ask("GET", "/v3/auth/tokens", token=token, headers={"X-Subject-Token": text}) == answer.json()
            )
        await api.ask("HEAD", "/v3/auth/tokens", headers={"X-Subject-Token": text})
        short = await api.ask("GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": text})
        assert "catalog" not in short["token"]

    async def test_somebody_elses_token_is_none_of_ones_business(self, api: Api, alice: str) -> None:
        text = (await api.log_in({"id": alice})).headers["x-subject-token"]
        for method in ("GET", "DELETE"):
            await api.ask(method, "/v3/auth/tokens", token=text, headers={"X-Subject-Token": api.token}, status=403)

    async def test_a_revoked_token_is_gone_at_once(self, api: Api, alice: str) -> None:
        text = (await api.log_in({"id": alice})).headers["x-subject-token"]
        await api.ask("DELETE", "/v3/auth/tokens", token=text, headers={"X-Subject-Token": text}, status=204)
        await api.ask("GET", "/v3/auth/tokens", headers={"X-Subject-Token": text}, status=404)
        await api.ask("GET", "/v3/auth/projects", token=text, status=401)

    async def test_the_subject_is_required(self, api: Api) -> None:
        assert "X-Subject-Token" in await api.refused("GET", "/v3/auth/tokens", status=400)

    async def test_projects_one_can_reach(self, api: Api, alice: str, web: str) -> None:
        text = (await api.log_in({"id": alice})).headers["x-subject-token"]
        assert [p["id"] for p in (await api.ask("GET", "/v3/auth/projects", token=text))["projects"]] == [web]
        await api.ask("PATCH", f"/v3/projects/{web}", {"project": {"enabled": False}})
        assert (await api.ask("GET", "/v3/auth/projects", token=text))["projects"] == []
        mine = await api.ask("GET", f"/v3/users/{alice}/projects", token=text)
        assert [p["enabled"] for p in mine["projects"]] == [False]
        assert (await api.ask("GET", "/v3/auth/system", token=text))["system"] == []


class TestUsers:
    async def test_a_user_is_created_shown_changed_listed_and_deleted(self, api: Api) -> None:
        wanted = {"name": "bob", "email": "bob@example.org", "password": "secret", "colour": "red"}
        created = (await api.ask("POST", "/v3/users", {"user": wanted}, status=201))["user"]
        assert "password" not in created
        assert "secret" not in str(created)
        assert created.pop("links") == {"self": f"http://cloud/identity/v3/users/{created['id']}"}
        assert created == {
            "id": created["id"],
            "name": "bob",
            "domain_id": "default",
            "description": "",
            "email": "bob@example.org",
            "enabled": True,
            "password_expires_at": None,
            "options": {},
            "colour": "red",
        }
        path = f"/v3/users/{created['id']}"
        changes = {"name": "bert", "enabled": False, "description": None, "shape": "round", "options": {"x": True}}
        changed = (await api.ask("PATCH", path, {"user": changes}))["user"]
        assert (changed["name"], changed["enabled"], changed["description"]) == ("bert", False, "")
        assert (changed["colour"], changed["shape"], changed["options"]) == ("red", "round", {"x": True})
        assert (await api.ask("GET", path))["user"] == changed
        assert (await api.ask("GET", "/v3/users?name=bert&enabled=false"))["users"] == [changed]
        await api.ask("DELETE", path, status=204)
        assert created["id"] in await api.refused("GET", path, status=404)

    @pytest.mark.parametrize(
        ("user", "named"),
        [
            ({}, "name"),
            ({"name": ""}, "name"),
            ({"name": "  "}, "name"),
            ({"name": "x" * 256}, "name"),
            ({"name": 7}, "name"),
            ({"name": "x", "enabled": "yes"}, "enabled"),
            ({"name": "x", "email": 7}, "email"),
            ({"name": "x", "password": ""}, "password"),
            ({"name": "x", "default_project_id": 7}, "default_project_id"),
            ("x", "user"),
        ],
    )
    async def test_a_malformed_attribute_is_named(self, api: Api, user: object, named: str) -> None:
        assert named in await api.refused("POST", "/v3/users", {"user": user}, status=400)

    async def test_a_taken_name_is_a_conflict(self, api: Api, alice: str) -> None:
        assert "alice" in await api.refused("POST", "/v3/users", {"user": {"name": "alice"}}, status=409)

    async def test_a_user_stays_in_its_domain(self, api: Api, alice: str) -> None:
        body = {"user": {"domain_id": "elsewhere"}}
        assert "domain_id" in await api.refused("PATCH", f"/v3/users/{alice}", body, status=400)
        await api.ask("PATCH", f"/v3/users/{alice}", {"user": {"domain_id": "default"}})

    async def test_users_see_themselves_and_nobody_else(self, api: Api, alice: str, admin: Administrator) -> None:
        text = (await api.log_in({"id": alice})).headers["x-subject-token"]
        assert (await api.ask("GET", f"/v3/users/{alice}", token=text))["user"]["name"] == "alice"
        await api.refused("GET", f"/v3/users/{admin.user_id}", status=403, token=text)
        await api.refused("GET", f"/v3/users/{admin.user_id}/projects", status=403, token=text)
        await api.refused("GET", "/v3/users", status=403, token=text)

    async def test_changing_ones_password(self, api: Api, alice: str) -> None:
        text = (await api.log_in({"id": alice})).headers["x-subject-token"]
        path = f"/v3/users/{alice}/password"
        await api.refused(
            "POST", path, {"user": {"original_password": "wrong", "password": "new"}}, status=401, token=""
        )
        await api.ask("POST", path, {"user": {"original_password": PASSWORD, "password": "new"}}, status=204, token="")
        await api.refused("GET", "/v3/auth/projects", status=401, token=text)
        await api.log_in({"id": alice}, status=401)
        await api.log_in({"id": alice, "password": "new"})

    async def test_nobody_elses_password(self, api: Api) -> None:
        body = {"user": {"original_password": PASSWORD, "password": "new"}}
        await api.refused("POST", "/v3/users/nobody/password", body, status=401)

    async def test_an_administrator_sets_a_password(self, api: Api, alice: str) -> None:
        await api.ask("PATCH", f"/v3/users/{alice}", {"user": {"password": "set by admin"}})
        await api.log_in({"id": alice}, status=401)
        await api.log_in({"id": alice, "password": "set by admin"})

    async def test_a_user_is_made_in_a_named_domain_with_a_default_project(self, api: Api, web: str) -> None:
        domain = (await api.ask("POST", "/v3/domains", {"domain": {"name": "second"}}, status=201))["domain"]
        wanted = {"name": "bob", "domain_id": domain["id"], "default_project_id": web}
        user = (await api.ask("POST", "/v3/users", {"user": wanted}, status=201))["user"]
        assert (user["domain_id"], user["default_project_id"]) == (domain["id"], web)
        assert "elsewhere" in await api.refused(
            "POST", "/v3/users", {"user": {"name": "x", "domain_id": "elsewhere"}}, status=404
        )


class TestLists:
    async def test_pages_follow_each_other(self, api: Api) -> None:
        for name in ("c", "a", "b"):
            await api.ask("POST", "/v3/projects", {"project": {"name": name}}, status=201)
        names: list[str] = []
        following = "/v3/projects?limit=2&sort_key=name&sort_dir=desc"
        while following:
            page = await api.ask("GET", following)
            names += [project["name"] for project in page["projects"]]
            assert page["links"]["self"].endswith(following)
            following = (page["links"]["next"] or "").removeprefix("http://cloud/identity")
        assert names == ["c", "b", "admin", "a"]

    @pytest.mark.parametrize(
        ("query", "named"),
        [
            ("limit=x", "limit"),
            ("limit=-1", "limit"),
            ("marker=nothing", "marker"),
            ("sort_key=extra", "sort_key"),
            ("sort_key=name&sort_dir=up", "sort_dir"),
            ("enabled=maybe", "enabled"),
        ],
    )
    async def test_a_malformed_query_is_named(self, api: Api, query: str, named: str) -> None:
        assert named in await api.refused("GET", f"/v3/projects?{query}", status=400)

    async def test_inexact_filters(self, api: Api) -> None:
        listed = await api.ask("GET", "/v3/roles?name__startswith=re&unknown=x")
        assert [role["name"] for role in listed["roles"]] == ["reader"]
        assert (await api.ask("GET", "/v3/users?name=nobody"))["users"] == []


class TestProjects:
    async def test_a_project_is_created_shown_changed_and_deleted(self, api: Api) -> None:
        wanted = {"name": "web", "description": "d", "tags": ["b", "a", "b"], "cost_centre": 7, "options": {}}
        created = (await api.ask("POST", "/v3/projects", {"project": wanted}, status=201))["project"]
        assert created == {
            "id": created["id"],
            "name": "web",
            "domain_id": "default",
            "parent_id": "default",
            "is_domain": False,
            "description": "d",
            "enabled": True,
            "tags": ["a", "b"],
            "options": {},
            "cost_centre": 7,
            "links": {"self": f"http://cloud/identity/v3/projects/{created['id']}"},
        }
        path = f"/v3/projects/{created['id']}"
        changed = (await api.ask("PATCH", path, {"project": {"name": "www", "description": None, "x": 1}}))["project"]
        assert (changed["name"], changed["description"], changed["cost_centre"], changed["x"]) == ("www", "", 7, 1)
        assert (await api.ask("GET", path))["project"] == changed
        await api.ask("DELETE", path, status=204)
        await api.refused("GET", path, status=404)

    async def test_a_project_may_hang_below_another(self, api: Api, web: str) -> None:
        async def create(**attributes: object) -> Document:
            answer = await api.ask("POST", "/v3/projects", {"project": attributes}, status=201)
            project: Document = answer["project"]
            return project

        below = await create(name="below", parent_id=web)
        assert (below["domain_id"], below["parent_id"]) == ("default", web)
        assert (await create(name="top", parent_id="default"))["parent_id"] == "default"
        listed = (await api.ask("GET", f"/v3/projects?parent_id={web}"))["projects"]
        assert [project["id"] for project in listed] == [below["id"]]
        message = await api.refused(
            "PATCH", f"/v3/projects/{below['id']}", {"project": {"parent_id": "default"}}, status=403
        )
        assert "parent_id" in message

    @pytest.mark.parametrize(
        ("project", "status", "named"),
        [
            ({}, 400, "name"),
            ({"name": "x" * 65}, 400, "name"),
            ({"name": "x", "is_domain": True}, 400, "is_domain"),
            ({"name": "x", "tags": ["a,b"]}, 400, "tags"),
            ({"name": "x", "parent_id": "nothing"}, 404, "nothing"),
            ({"name": "x", "domain_id": "nothing"}, 404, "nothing"),
            ({"name": "admin"}, 409, "admin"),
        ],
    )
    async def test_a_malformed_attribute_is_named(self, api: Api, project: Document, status: int, named: str) -> None:
        assert named in await api.refused("POST", "/v3/projects", {"project": project}, status=status)

    async def test_a_project_stays_in_its_domain(self, api: Api, web: str) -> None:
        body = {"project": {"domain_id": "elsewhere"}}
        assert "domain_id" in await api.refused("PATCH", f"/v3/projects/{web}", body, status=400)

    async def test_a_project_with_resources_is_kept(self, api: Api, web: str, services: Services) -> None:
        def add(tx: Any) -> None:
            tx.execute(insert(schema.images).values(id="i", project_id=web, status="queued"))

        await services.auth.store.write(add)
        assert "1 images" in await api.refused("DELETE", f"/v3/projects/{web}", status=409)

    async def test_members_see_their_own_project(self, api: Api, alice: str, web: str, admin: Administrator) -> None:
        text = (await api.log_in({"id": alice}, {"project": {"id": web}})).headers["x-subject-token"]
        assert (await api.ask("GET", f"/v3/projects/{web}", token=text))["project"]["name"] == "web"
        assert (await api.ask("GET", f"/v3/projects/{web}/tags", token=text))["tags"] == []
        await api.refused("GET", f"/v3/projects/{admin.project_id}", status=403, token=text)

    async def test_disabling_a_project_voids_its_tokens(self, api: Api, alice: str, web: str) -> None:
        text = (await api.log_in({"id": alice}, {"project": {"id": web}})).headers["x-subject-token"]
        await api.ask("PATCH", f"/v3/projects/{web}", {"project": {"enabled": False}})
        await api.refused("GET", f"/v3/projects/{web}", status=401, token=text)

    async def test_tags(self, api: Api, web: str) -> None:
        path = f"/v3/projects/{web}/tags"
        assert (await api.ask("PUT", path, {"tags": ["red", "blue"]}))["tags"] == ["blue", "red"]
        await api.ask("PUT", f"{path}/green", status=201)
        await api.ask("GET", f"{path}/green", status=204)
        await api.refused("GET", f"{path}/white", status=404)
        await api.refused("DELETE", f"{path}/white", status=404)
        await api.refused("PUT", f"{path}/a,b", status=400)
        await api.ask("DELETE", f"{path}/red", status=204)
        assert (await api.ask("GET", path))["tags"] == ["blue", "green"]

        async def found(query: str) -> int:
            return len((await api.ask("GET", f"/v3/projects?{query}"))["projects"])

        assert [await found(f"tags{query}") for query in ("=blue,green", "=blue,red", "-any=blue,red")] == [1, 0, 1]
        assert [await found(f"not-tags{query}") for query in ("=blue", "-any=blue,red")] == [1, 1]
        assert await found("is_domain=true") == 0
        await api.ask("DELETE", path, status=204)
        await api.ask("PUT", path, {"tags": [str(number) for number in range(80)]})
        assert "80 tags" in await api.refused("PUT", f"{path}/more", status=400)


class TestDomainsAndRoles:
    async def test_a_domain_is_disabled_before_it_is_deleted(self, api: Api) -> None:
        wanted = {"name": "second", "description": None}
        domain = (await api.ask("POST", "/v3/domains", {"domain": wanted}, status=201))["domain"]
        path = f"/v3/domains/{domain['id']}"
        assert (await api.ask("GET", path))["domain"] == domain
        assert "disable it" in await api.refused("DELETE", path, status=403)
        changed = await api.ask("PATCH", path, {"domain": {"enabled": False, "description": None}})
        assert not changed["domain"]["enabled"]
        listed = (await api.ask("GET", "/v3/domains?enabled=false"))["domains"]
        assert [each["name"] for each in listed] == ["second"]
        await api.ask("DELETE", path, status=204)

    async def test_ones_own_domain_is_visible(self, api: Api, alice: str) -> None:
        text = (await api.log_in({"id": alice})).headers["x-subject-token"]
        assert (await api.ask("GET", "/v3/domains/default", token=text))["domain"]["name"] == "Default"
        await api.refused("GET", "/v3/domains/elsewhere", status=403, token=text)

    async def test_a_role_is_created_shown_changed_and_deleted(self, api: Api) -> None:
        role = (await api.ask("POST", "/v3/roles", {"role": {"name": "zap"}}, status=201))["role"]
        path = f"/v3/roles/{role['id']}"
        assert (await api.ask("GET", path))["role"] == role
        changed = await api.ask("PATCH", path, {"role": {"name": "zip", "description": "d"}})
        assert (changed["role"]["name"], changed["role"]["description"]) == ("zip", "d")
        await api.ask("DELETE", path, status=204)
        body = {"role": {"name": "x", "domain_id": "default"}}
        assert "domain_id" in await api.refused("POST", "/v3/roles", body, status=400)
        assert (await api.ask("GET", "/v3/roles?domain_id=default"))["roles"] == []

    @pytest.mark.parametrize("where", ["projects/{project}", "domains/default", "system"])
    async def test_a_role_is_given_checked_listed_and_taken_back(
        self, api: Api, alice: str, admin: Administrator, where: str
    ) -> None:
        base = f"/v3/{where.format(project=admin.project_id)}/users/{alice}/roles"
        path = f"{base}/{await api.role('reader')}"
        await api.refused("GET", path, status=404)
        await api.ask("PUT", path, status=204)
        await api.ask("HEAD", path, status=204)
        assert [role["name"] for role in (await api.ask("GET", base))["roles"]] == ["reader"]
        await api.ask("DELETE", path, status=204)
        await api.refused("DELETE", path, status=404)

    async def test_assignments_with_names(self, api: Api, alice: str, web: str) -> None:
        await api.ask("PUT", f"/v3/domains/default/users/{alice}/roles/{await api.role('reader')}", status=204)
        listed = await api.ask("GET", f"/v3/role_assignments?user.id={alice}&include_names")
        domain = {"id": "default", "name": "Default"}
        on_domain, on_project = listed["role_assignments"]
        assert on_domain["scope"] == {"domain": domain}
        assert on_project["scope"] == {"project": {"id": web, "name": "web", "domain": domain}}
        assert on_project["user"] == {"id": alice, "name": "alice", "domain": domain}
        assert on_project["role"]["name"] == "member"
        assert on_project["links"]["assignment"].endswith(
            f"/v3/projects/{web}/users/{alice}/roles/{on_project['role']['id']}"
        )

    async def test_assignments_by_scope(self, api: Api, alice: str, web: str, admin: Administrator) -> None:
        async def found(query: str) -> list[str]:
            listed = (await api.ask("GET", f"/v3/role_assignments?{query}"))["role_assignments"]
            return [each["user"]["id"] for each in listed]

        assert await found(f"scope.project.id={web}") == [alice]
        assert await found(f"scope.project.id={web}&effective") == [alice, alice]
        assert await found("scope.system=all") == [admin.user_id]
        assert await found("scope.domain.id=default") == []
        assert await found("group.id=g") == []
        assert len(await found("")) == 3
        await api.refused("GET", "/v3/role_assignments?scope.system=all&scope.domain.id=x", status=400)

    async def test_users_list_their_own_assignments(self, api: Api, alice: str, web: str) -> None:
        text = (await api.log_in({"id": alice})).headers["x-subject-token"]
        listed = await api.ask("GET", f"/v3/role_assignments?user.id={alice}", token=text)
        assert len(listed["role_assignments"]) == 1
        await api.refused("GET", "/v3/role_assignments", status=403, token=text)


class TestCatalog:
    @pytest.mark.parametrize("noun", ["region", "service", "endpoint"])
    async def test_lists_and_items_agree(self, api: Api, noun: str) -> None:
        listed = (await api.ask("GET", f"/v3/{noun}s"))[f"{noun}s"]
        assert listed
        for item in listed:
            assert (await api.ask("GET", f"/v3/{noun}s/{item['id']}"))[noun] == item
        assert "nothing" in await api.refused("GET", f"/v3/{noun}s/nothing", status=404)

    async def test_filters(self, api: Api) -> None:
        (service,) = (await api.ask("GET", "/v3/services?type=image"))["services"]
        query = f"service_id={service['id']}&interface=public"
        (endpoint,) = (await api.ask("GET", f"/v3/endpoints?{query}"))["endpoints"]
        assert endpoint["url"] == "http://127.0.0.1:8770/image"
