"""The service catalog and the policies."""

from __future__ import annotations

import pytest

from kilonova.auth.catalog import COMPUTE, IDENTITY, OBJECT_STORE, SERVED, catalog, endpoints
from kilonova.auth.policy import Policy
from kilonova.config import ApiConfig
from kilonova.context import Context
from kilonova.ids import ProjectId, RequestId

API = ApiConfig(public_url="https://cloud.example.org", region="Here")


def test_urls_and_region_come_from_the_configuration() -> None:
    found = {endpoint.url for endpoint in endpoints(API, [IDENTITY, COMPUTE])}
    assert found == {"https://cloud.example.org/identity/v3", "https://cloud.example.org/compute/v2.1"}
    assert {endpoint.region for endpoint in endpoints(API, SERVED)} == {"Here"}


def test_ids_are_stable_and_apart() -> None:
    once, again = (endpoints(API, SERVED) for _ in range(2))
    assert [endpoint.id for endpoint in once] == [endpoint.id for endpoint in again]
    assert len({endpoint.id for endpoint in once}) == len(once) == 3 * len(SERVED)
    assert len({service.id for service in SERVED}) == len(SERVED)


def test_a_service_of_a_project_is_listed_with_the_project_only() -> None:
    assert catalog(API, [OBJECT_STORE], None) == []
    (entry,) = catalog(API, [OBJECT_STORE], "p1")
    listed = entry["endpoints"]
    assert isinstance(listed, list)
    assert {endpoint["url"] for endpoint in listed} == {"https://cloud.example.org/object-store/v1/AUTH_p1"}


@pytest.mark.parametrize(
    ("roles", "allowed"),
    [
        (set(), {Policy.ANYONE, Policy.AUTHENTICATED}),
        ({"reader"}, {Policy.ANYONE, Policy.AUTHENTICATED, Policy.READER}),
        ({"zap"}, {Policy.ANYONE, Policy.AUTHENTICATED, Policy.READER}),
        ({"member"}, {Policy.ANYONE, Policy.AUTHENTICATED, Policy.READER, Policy.MEMBER}),
        ({"manager"}, {Policy.ANYONE, Policy.AUTHENTICATED, Policy.READER, Policy.MEMBER}),
        ({"admin"}, set(Policy)),
    ],
)
def test_a_policy_asks_for_a_role(roles: set[str], allowed: set[Policy]) -> None:
    context = Context(request_id=RequestId("req-1"), project_id=ProjectId("p1"), roles=frozenset(roles))
    assert {policy for policy in Policy if policy.allows(context)} == allowed


def test_what_belongs_to_projects_needs_a_token_on_one() -> None:
    context = Context(request_id=RequestId("req-1"), roles=frozenset({"admin"}))
    assert {policy for policy in Policy if policy.allows(context)} == {
        Policy.ANYONE,
        Policy.AUTHENTICATED,
        Policy.ADMIN,
    }
    assert Policy.MEMBER.missing(context) == "a token on a project"
