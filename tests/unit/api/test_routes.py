"""Rules that hold for the routes of every API: who gets in, and how refusals look."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from kilonova.api.registries import all_registries
from kilonova.api.routing import Registry, Route, Services
from kilonova.api.server import application
from kilonova.auth.policy import Policy

ROUTES = [(registry, route) for registry in all_registries() for route in registry.routes]


def _url(registry: Registry, route: Route) -> str:
    return re.sub(r"\{\w+(:\w+)?\}", "00000000-0000-4000-8000-000000000000", registry.prefix + route.path) or "/"


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=application(all_registries(), services))
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
        yield client


def _assert_refused(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    assert "message" in answer.text


class TestRefusals:
    """One cloud serves all of these: a refused request leaves nothing behind."""

    async def test_no_route_answers_without_a_token_unless_it_says_so(self, client: httpx.AsyncClient) -> None:
        for registry, route in ROUTES:
            if route.policy is not Policy.ANYONE:
                answer = await client.request(route.method, _url(registry, route))
                _assert_refused(answer, 401)

    async def test_no_route_answers_to_a_forged_token(
        self, client: httpx.AsyncClient, token_of: Callable[..., str]
    ) -> None:
        head, _, mac = token_of("admin").rpartition(".")
        forged = {"X-Auth-Token": f"{head}.{mac[::-1]}"}
        for registry, route in ROUTES:
            if route.policy is not Policy.ANYONE:
                _assert_refused(await client.request(route.method, _url(registry, route), headers=forged), 401)

    @pytest.mark.parametrize(
        ("roles", "refused"),
        [
            ((), {Policy.READER, Policy.MEMBER, Policy.ADMIN}),
            (("reader",), {Policy.MEMBER, Policy.ADMIN}),
            (("member", "reader"), {Policy.ADMIN}),
        ],
        ids=["no role", "reader", "member"],
    )
    async def test_a_role_does_not_open_what_needs_more(
        self, client: httpx.AsyncClient, token_of: Callable[..., str], roles: tuple[str, ...], refused: set[Policy]
    ) -> None:
        headers = {"X-Auth-Token": token_of(*roles)}
        for registry, route in ROUTES:
            if route.policy in refused:
                _assert_refused(await client.request(route.method, _url(registry, route), headers=headers), 403)


async def test_what_belongs_to_projects_needs_a_token_on_one(
    client: httpx.AsyncClient, token_of: Callable[..., str]
) -> None:
    headers = {"X-Auth-Token": token_of("admin", project_id=None)}
    for registry, route in ROUTES:
        if route.policy in {Policy.READER, Policy.MEMBER}:
            answer = await client.request(route.method, _url(registry, route), headers=headers)
            _assert_refused(answer, 403)
            assert "on a project" in answer.text


async def test_what_no_api_serves_is_not_found(client: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/identity/v2.0", "/identityx"):
        _assert_refused(await client.get(path), 404)


async def test_a_wrong_method_names_the_right_ones(client: httpx.AsyncClient) -> None:
    answer = await client.post("/identity/v3")
    _assert_refused(answer, 405)
    assert "GET" in answer.text


async def test_the_root_lists_the_services(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/")).json()["services"]
    assert {"type": "identity", "name": "keystone", "url": "http://127.0.0.1:8770/identity/v3"} in listed


def test_no_method_and_path_is_registered_twice() -> None:
    seen = [(registry.name, route.method, re.sub(r"\{\w+", "{", route.path)) for registry, route in ROUTES]
    assert sorted(set(seen)) == sorted(seen)


def test_what_changes_something_is_not_for_readers() -> None:
    """A route that changes something needs at least the role member, or is one's own account."""
    own = {("identity", "/v3/auth/tokens"), ("identity", "/v3/users/{user_id}/password")}
    loose = [
        f"{registry.name} {route.method} {route.path}"
        for registry, route in ROUTES
        if route.method != "GET"
        and route.policy in {Policy.ANYONE, Policy.AUTHENTICATED, Policy.READER}
        and (registry.name, route.path) not in own
    ]
    assert loose == []
