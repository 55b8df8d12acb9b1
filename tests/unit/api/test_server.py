"""The web front end: every request gets an id, every error its service's format, whatever the request looks like."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from kilonova.api import dialects
from kilonova.api.matching import RouteTree
from kilonova.api.routing import ApiRequest, Dialect, Registry, Services
from kilonova.api.server import application
from kilonova.auth.manager import AuthManager
from kilonova.auth.policy import Policy
from kilonova.cloud.controller import Cloud
from kilonova.config import ApiConfig, Config
from kilonova.context import Context
from kilonova.errors import (
    BadRequest,
    Conflict,
    KilonovaError,
    MethodNotAllowed,
    NoMoreAddresses,
    NotAcceptable,
    NotFound,
    QuotaExceeded,
    Unauthorized,
)
from kilonova.ids import ProjectId

DIALECTS: dict[str, Dialect] = {
    "compute": dialects.compute,
    "network": dialects.network,
    "identity": dialects.identity,
    "image": dialects.image,
}
every_dialect = pytest.mark.parametrize("api", DIALECTS)


class Inner(msgspec.Struct):
    name: str
    count: int = 0


class Body(msgspec.Struct):
    thing: Inner


class Tokens:
    """The auth manager's one method that the server needs: a token is the list of its roles."""

    def authenticate(self, token: str, request_id: Any) -> Context:
        if token == "forged":
            raise Unauthorized("The token is not valid")
        return Context(request_id=request_id, project_id=ProjectId("p"), roles=frozenset(token.split(",")))


def _registry(name: str, dialect: Dialect) -> Registry:
    registry = Registry(name, f"/{name}", dialect)

    @registry.route("GET", "", policy=Policy.ANYONE)
    async def versions(_request: ApiRequest) -> Any:
        return {"versions": []}

    @registry.route("GET", "/things/{thing_id}", policy=Policy.ANYONE)
    async def show(request: ApiRequest) -> Any:
        return {"path": request.path}

    @registry.route("GET", "/things/detail", policy=Policy.ANYONE)
    async def detail(request: ApiRequest) -> Any:
        return {"detail": True, "limit": request.query_int("limit")}

    @registry.route("DELETE", "/things/{thing_id}", policy=Policy.ANYONE)
    async def delete(_request: ApiRequest) -> None:
        return None

    @registry.route("POST", "/things", policy=Policy.MEMBER, status=202, body=Body)
    async def create(_request: ApiRequest, body: Body) -> Any:
        return body

    @registry.route("GET", "/raise/{kind}", policy=Policy.ANYONE)
    async def fails(request: ApiRequest) -> Any:
        request.response_headers["X-Note"] = "kept"
        kind = request.path["kind"]
        raise KilonovaError.kinds[kind](f"{kind} it is") if kind in KilonovaError.kinds else ValueError("secret words")

    @registry.route("GET", "/gone", policy=Policy.ANYONE)
    async def gone(_request: ApiRequest) -> Any:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            raise ClientDisconnect

        return StreamingResponse(parts())

    return registry


@pytest.fixture
async def client(cloud: Cloud, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    config = Config(tmp_path, api=ApiConfig(max_body_bytes=1000))
    services = Services(cloud=cloud, auth=cast(AuthManager, Tokens()), config=config)
    app = application([_registry(name, dialect) for name, dialect in DIALECTS.items()], services)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud", headers={"X-Auth-Token": "member"}) as c:
        yield c


def problem(api: str, answer: httpx.Response) -> tuple[int, str]:
    """The code (where the format has one) and message, after checking the format."""
    document = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    match api:
        case "compute":
            ((_, inner),) = document.items()
            assert inner["code"] == answer.status_code
            assert answer.headers["x-compute-request-id"] == answer.headers["x-openstack-request-id"]
        case "network":
            inner = document["NeutronError"]
            assert set(inner) == {"type", "message", "detail"}
        case "identity":
            inner = document["error"]
            assert inner["code"] == answer.status_code
            assert inner["title"]
        case _:
            inner = document
            assert inner["code"] == answer.status_code
    return answer.status_code, inner["message"]


@every_dialect
async def test_an_answer_carries_its_request_id(client: httpx.AsyncClient, api: str) -> None:
    first, second = [await client.get(f"/{api}/things/1") for _ in "12"]
    assert first.json() == {"path": {"thing_id": "1"}}
    assert first.headers["x-openstack-request-id"].startswith("req-")
    assert first.headers["x-openstack-request-id"] != second.headers["x-openstack-request-id"]


@every_dialect
async def test_an_unknown_path_is_not_found(client: httpx.AsyncClient, api: str) -> None:
    assert problem(api, await client.get(f"/{api}/nothing")) == (404, f"/{api}/nothing could not be found")


async def test_a_path_outside_every_api_is_not_found(client: httpx.AsyncClient) -> None:
    for path in ("/", "/nothing", "/computer", "//", "/compute2/things"):
        assert problem("identity", await client.get(f"http://cloud{path}"))[0] == 404


@every_dialect
async def test_a_wrong_method_names_the_right_ones(client: httpx.AsyncClient, api: str) -> None:
    answer = await client.put(f"/{api}/things/1")
    assert problem(api, answer) == (405, f"PUT is not allowed on /{api}/things/1: use DELETE, GET")
    assert answer.headers["allow"] == "DELETE, GET"


@every_dialect
@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'"\\ud800"', ""),
        (b"[" * 900, ""),
        (b"null", "Expected `object`"),
        (b"{}", "thing"),
        (b'{"thing": {}}', "`name` - at `$.thing`"),
        (b'{"thing": {"name": 5}}', "`$.thing.name`"),
        (b'{"thing": {"name": "a", "count": "many"}}', "`$.thing.count`"),
        (b'{"thing": {"name": "a", "count": 1e999}}', ""),
    ],
)
async def test_a_malformed_body_names_the_field(client: httpx.AsyncClient, api: str, body: bytes, named: str) -> None:
    code, message = problem(api, await client.post(f"/{api}/things", content=body))
    assert code == 400
    assert named in message


async def test_a_body_arrives_as_its_struct(client: httpx.AsyncClient) -> None:
    answer = await client.post("/compute/things", json={"thing": {"name": "ä", "unknown": 1}})
    assert (answer.status_code, answer.json()) == (202, {"thing": {"name": "ä", "count": 0}})


@every_dialect
async def test_a_body_that_is_too_large_is_refused(client: httpx.AsyncClient, api: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 500
        raise AssertionError("read on after the limit")

    told = await client.post(f"/{api}/things", content=b" " * 1001)
    assert problem(api, told) == (413, "The body is larger than 1000 bytes")
    fits = await client.post(f"/{api}/things", content=b'{"thing":{"name":"a"}}'.ljust(1000))
    assert fits.status_code == 202
    chunked = await client.post(f"/{api}/things", content=endless())
    assert problem(api, chunked)[0] == 413
    lying = await client.post(f"/{api}/things", content=b"{}", headers={"Content-Length": "9" * 5000})
    assert problem(api, lying)[0] == 413


@every_dialect
async def test_who_has_no_valid_token_is_not_authorised(client: httpx.AsyncClient, api: str) -> None:
    for token in ("", "forged"):
        answer = await client.post(f"/{api}/things", content=b"not even json", headers={"X-Auth-Token": token})
        assert problem(api, answer)[0] == 401
        assert answer.headers["www-authenticate"].startswith("Keystone uri=")


@every_dialect
async def test_who_lacks_the_role_is_told_which(client: httpx.AsyncClient, api: str) -> None:
    answer = await client.post(f"/{api}/things", content=b"not even json", headers={"X-Auth-Token": "reader"})
    code, message = problem(api, answer)
    assert code == 403
    assert "POST /things needs" in message
    assert "role member" in message


@every_dialect
async def test_a_defect_shows_its_request_id_and_nothing_else(
    client: httpx.AsyncClient, api: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get(f"/{api}/raise/defect")
    code, message = problem(api, answer)
    assert code == 500
    assert answer.headers["x-openstack-request-id"] in message
    assert "secret words" not in answer.text
    assert "secret words" in caplog.text


@every_dialect
async def test_every_error_has_a_body_in_every_format(client: httpx.AsyncClient, api: str) -> None:
    for kind, error in KilonovaError.kinds.items():
        answer = await client.get(f"/{api}/raise/{kind}")
        code, message = problem(api, answer)
        assert message == f"{kind} it is"
        assert answer.headers["x-note"] == "kept"
        if kind != "QuotaExceeded":
            assert code == error.status


@pytest.mark.parametrize(("api", "status"), [("compute", 403), ("network", 409), ("image", 413)])
async def test_a_full_quota_has_each_services_own_status(client: httpx.AsyncClient, api: str, status: int) -> None:
    assert (await client.get(f"/{api}/raise/QuotaExceeded")).status_code == status


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (QuotaExceeded, "OverQuota"),
        (NoMoreAddresses, "IpAddressGenerationFailure"),
        (BadRequest, "HTTPBadRequest"),
        (NotFound, "NotFound"),
    ],
)
async def test_network_errors_have_neutrons_types(
    client: httpx.AsyncClient, error: type[KilonovaError], kind: str
) -> None:
    answer = await client.get(f"/network/raise/{error.__name__}")
    assert answer.json()["NeutronError"]["type"] == kind


@pytest.mark.parametrize(
    ("error", "key"), [(NotFound, "itemNotFound"), (Conflict, "conflictingRequest"), (NotAcceptable, "computeFault")]
)
async def test_compute_errors_have_novas_keys(client: httpx.AsyncClient, error: type[KilonovaError], key: str) -> None:
    assert set((await client.get(f"/compute/raise/{error.__name__}")).json()) == {key}


@pytest.mark.parametrize("path", ["", "/", "//"])
async def test_a_slash_at_the_end_does_not_matter(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(f"/compute{path}")).json() == {"versions": []}
    assert (await client.get(f"/compute/things/1{path}")).json() == {"path": {"thing_id": "1"}}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/compute/things/%00", 400),
        ("/compute/things/detail?limit=%00", 400),
        ("/compute//things/1", 404),
        ("/compute/things//1", 404),
        ("/compute/things/%2e%2e/x", 404),
        ("/compute/things/a%2Fb", 404),
        ("/compute/things/%ff%fe", 200),
        ("/compute/things/%0d%0aX-Evil:%201", 200),
        ("/compute/things/" + "x" * 20_000, 200),
        ("/compute/" + "/".join("x" * 3000), 404),
        ("/compute/things/detail?limit=1e5", 400),
        ("/compute/things/detail?limit=-1", 400),
        ("/compute/things/detail?limit=" + "9" * 5000, 400),
        ("/compute/things/detail?limit=", 200),
        ("/compute/things/detail?&&==&limit=1&limit=2", 200),
    ],
)
async def test_odd_paths_have_plain_answers(client: httpx.AsyncClient, path: str, status: int) -> None:
    answer = await client.get(path)
    assert answer.status_code == status
    assert "x-evil" not in answer.headers


async def test_the_last_of_a_repeated_parameter_counts(client: httpx.AsyncClient) -> None:
    assert (await client.get("/compute/things/detail?limit=1&limit=2")).json()["limit"] == 2


async def test_head_is_answered_as_get(client: httpx.AsyncClient) -> None:
    get, head = await client.get("/compute/things/1"), await client.head("/compute/things/1")
    assert head.status_code == 200
    assert head.headers["content-length"] == get.headers["content-length"]
    assert (await client.head("/compute/nothing")).status_code == 404


async def test_nothing_to_say_is_204(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/compute/things/1")
    assert (answer.status_code, answer.content) == (204, b"")


Ask = Callable[..., Awaitable[list[Any]]]


@pytest.fixture
def ask(cloud: Cloud, tmp_path: Path) -> Ask:
    """Speaks ASGI itself, for clients that go away."""
    services = Services(cloud=cloud, auth=cast(AuthManager, Tokens()), config=Config(tmp_path))
    app = application([_registry("compute", dialects.compute)], services)

    async def ask(method: str, path: str) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"x-auth-token", b"member")]
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
        await app(scope | {"asgi": {"version": "3.0", "spec_version": "2.4"}}, receive, send)
        return sent

    return ask


async def test_a_client_that_leaves_during_a_download_is_one_line_in_the_log(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await ask("GET", "/compute/gone")
    assert caplog.messages[-1] == "GET /compute/gone: the client closed the connection early"


async def test_an_upload_that_breaks_off_is_a_bad_request(ask: Ask) -> None:
    assert (await ask("POST", "/compute/things"))[0]["status"] == 400


# ------------------------------------------------------------------------------------------------ matching
def _tree(*routes: tuple[str, str]) -> RouteTree:
    registry = Registry("x", "/x", dialects.compute)

    async def handler(_request: ApiRequest) -> None: ...

    for method, path in routes:
        registry.route(method, path)(handler)
    return RouteTree(registry)


def test_a_literal_segment_is_preferred_whatever_the_order() -> None:
    tree = _tree(("GET", "/a/{id}"), ("GET", "/a/detail"), ("GET", "/{kind}/b/c"), ("PUT", "/a/{name}"))
    assert tree.match("GET", "/x/a/detail")[0].path == "/a/detail"
    assert tree.match("GET", "/x/a/7")[1] == {"id": "7"}
    assert tree.match("PUT", "/x/a/detail")[1] == {"name": "detail"}
    assert tree.match("GET", "/x/a/b/c")[1] == {"kind": "a"}
    with pytest.raises(MethodNotAllowed) as caught:
        tree.match("POST", "/x/a/detail")
    assert caught.value.allowed == ("GET", "PUT")


def test_a_route_may_be_written_with_a_slash_at_its_end() -> None:
    tree = _tree(("GET", "/v3/"))
    assert tree.match("GET", "/x/v3")[0] is tree.match("GET", "/x/v3/")[0]


def test_head_may_have_its_own_route() -> None:
    tree = _tree(("GET", "/a"), ("HEAD", "/a"))
    assert tree.match("HEAD", "/x/a")[0].method == "HEAD"


segments = st.text(st.characters(exclude_characters="/\x00", codec="utf-8"), min_size=1)


@given(first=segments, second=segments)
def test_parameters_arrive_as_they_are(first: str, second: str) -> None:
    assert _tree(("GET", "/{a}/{b}")).match("GET", f"/x/{first}/{second}")[1] == {"a": first, "b": second}


@given(path=st.text())
def test_any_path_is_found_or_refused(path: str) -> None:
    try:
        _tree(("GET", "/{a}"), ("PUT", "/{a}/b")).match("GET", path)
    except (NotFound, MethodNotAllowed, BadRequest):
        pass
