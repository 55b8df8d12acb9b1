"""The image API as a client sees it, with the object store behind it but without a network."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kilonova.api.image import registry
from kilonova.api.routing import Services
from kilonova.api.server import application
from kilonova.auth.manager import AuthManager
from kilonova.auth.tokens import Named
from kilonova.bus.local import LocalBus
from kilonova.cloud.controller import Cloud
from kilonova.cloud.image_bytes import ImageBytes
from kilonova.config import ApiConfig, Config
from kilonova.objectstore.component import ObjectStore
from kilonova.objectstore.http import ObjectStoreApplication
from kilonova.store.database import Store

PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
OCTETS = {"Content-Type": "application/octet-stream"}
RAW = {"disk_format": "raw", "container_format": "bare"}


class Client(httpx.AsyncClient):
    """A client of one caller."""

    async def image(self, **attributes: Any) -> dict[str, Any]:
        made = await self.post("/v2/images", json={**RAW, **attributes})
        assert made.status_code == 201, made.text
        document: dict[str, Any] = made.json()
        return document

    async def fill(self, image_id: str, body: bytes) -> httpx.Response:
        return await self.put(f"/v2/images/{image_id}/file", content=body, headers=OCTETS)


class Callers:
    """Clients by project and role."""

    def __init__(self, transport: httpx.AsyncBaseTransport, auth: AuthManager) -> None:
        self._transport = transport
        self._auth = auth

    def __call__(self, project: str, role: str = "member") -> Client:
        domain = Named("default", "Default")
        token, _ = self._auth.issue(
            user=Named(f"user-{project}", project),
            user_domain=domain,
            methods=("password",),
            project=Named(project, project),
            project_domain=domain,
            roles=(Named(role, role),),
        )
        return Client(transport=self._transport, base_url="http://t/image", headers={"X-Auth-Token": token})


@pytest.fixture
async def callers(tmp_path: Path) -> AsyncIterator[Callers]:
    config = Config(state_dir=tmp_path, api=ApiConfig(max_body_bytes=100_000))
    store = Store(config.database_url)
    await store.open()
    auth = AuthManager(store, config)
    await auth.start()
    objects = ObjectStore(store, config)
    await objects.start()
    behind = httpx.ASGITransport(ObjectStoreApplication(objects, auth.authenticate))
    image_bytes = ImageBytes("http://o/object-store/v1", auth.service_token, transport=behind)
    services = Services(Cloud(store, LocalBus(), config), auth, config, image_bytes)
    yield Callers(httpx.ASGITransport(application([registry], services)), auth)
    await image_bytes.close()
    await objects.stop()
    await auth.stop()
    await store.close()


@pytest.fixture
def a(callers: Callers) -> Client:
    return callers("a")


@pytest.fixture
def admin(callers: Callers) -> Client:
    return callers("admins", "admin")


async def test_versions_need_no_token(a: Client) -> None:
    for path, status in (("", 300), ("/", 300), ("/versions", 200), ("/v2", 300)):
        answer = await a.get(path, headers={"X-Auth-Token": ""})
        assert answer.status_code == status
        assert [each["id"] for each in answer.json()["versions"] if each["status"] == "CURRENT"] == ["v2.9"]


async def test_life_of_an_image(a: Client) -> None:
    body = bytes(range(256)) * 1000
    image = await a.image(name="one", os_distro="debian", tags=["x"])
    assert (image["status"], image["size"], image["owner"], image["os_distro"]) == ("queued", None, "a", "debian")
    path = f"/v2/images/{image['id']}"
    assert (image["self"], image["file"], image["schema"]) == (path, f"{path}/file", "/v2/schemas/image")
    assert (await a.get(f"{path}/file")).status_code == 204
    assert (await a.fill(image["id"], body)).status_code == 204
    shown = (await a.get(path)).json()
    assert (shown["status"], shown["size"]) == ("active", len(body))
    assert shown["checksum"] == hashlib.md5(body).hexdigest()
    assert (shown["os_hash_algo"], shown["os_hash_value"]) == ("sha512", hashlib.sha512(body).hexdigest())
    got = await a.get(f"{path}/file")
    assert got.content == body
    assert (got.headers["content-md5"], got.headers["content-length"]) == (shown["checksum"], str(len(body)))
    part = await a.get(f"{path}/file", headers={"Range": "bytes=256-511"})
    assert (part.status_code, part.content) == (206, body[256:512])
    assert part.headers["content-range"] == f"bytes 256-511/{len(body)}"
    assert (await a.get(f"{path}/file", headers={"Range": "bytes=9999999-"})).status_code == 416
    assert (await a.fill(image["id"], b"again")).status_code == 409
    assert (await a.delete(path)).status_code == 204
    assert (await a.get(path)).status_code == 404
    assert (await a.delete(path)).status_code == 404


async def test_create_says_where_the_image_is(a: Client) -> None:
    made = await a.post("/v2/images", json={"name": "n"})
    assert made.headers["location"] == f"http://t/image/v2/images/{made.json()['id']}"
    assert made.headers["openstack-image-import-methods"] == "glance-direct"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"name": 5}', 400),
        (b'{"x": {"y": 1}}', 400),
        (b'{"status": "active"}', 403),
        (b'{"visibility": "public"}', 403),
        (b'{"container_format": "wrong"}', 400),
        (b"[" * 50_000, 400),
        (b" " * 100_001, 413),
    ],
)
async def test_bad_create_is_refused(a: Client, content: bytes, status: int) -> None:
    answer = await a.post("/v2/images", content=content)
    assert answer.status_code == status
    assert answer.json()["message"]
    assert (await a.get("/v2/images")).json()["images"] == []


async def test_patch(a: Client) -> None:
    image = await a.image(name="one", kind="x")
    path = f"/v2/images/{image['id']}"
    steps = [
        {"op": "replace", "path": "/name", "value": "two"},
        {"op": "add", "path": "/a~1b", "value": "c"},
        {"op": "remove", "path": "/kind"},
    ]
    changed = (await a.patch(path, json=steps, headers=PATCH)).json()
    assert (changed["name"], changed["a/b"], "kind" in changed) == ("two", "c", False)
    old = {"Content-Type": "application/openstack-images-v2.0-json-patch"}
    assert (await a.patch(path, json=[{"replace": "/name", "value": "3"}], headers=old)).json()["name"] == "3"
    wrong = await a.patch(path, json=steps)
    assert (wrong.status_code, "v2.1-json-patch" in wrong.headers["accept-patch"]) == (415, True)
    for step, status in [
        ({"op": "replace", "path": "/none", "value": "x"}, 409),
        ({"op": "remove", "path": "/none"}, 409),
        ({"op": "replace", "path": "/id", "value": "x"}, 403),
        ({"op": "replace", "path": "/location", "value": "x"}, 403),
        ({"op": "move", "path": "/name"}, 400),
        ({"op": "replace", "path": "/name"}, 400),
        ({"op": "replace", "path": "name", "value": "x"}, 400),
        ({"op": "add", "path": "/tags/0", "value": "x"}, 400),
        ({"op": "replace", "path": "/name", "value": 5}, 400),
    ]:
        assert (await a.patch(path, json=[step], headers=PATCH)).status_code == status, step
    assert (await a.patch(path, content=b'{"op": 1}', headers=PATCH)).status_code == 400


async def test_pages_link_to_each_other(a: Client) -> None:
    for name in "cab":
        await a.image(name=name)
    first = (await a.get("/v2/images", params={"limit": 2, "sort": "name:asc"})).json()
    assert [image["name"] for image in first["images"]] == ["a", "b"]
    assert first["first"] == "/v2/images?limit=2&sort=name%3Aasc"
    second = (await a.get(first["next"])).json()
    assert [image["name"] for image in second["images"]] == ["c"]
    assert "next" not in second
    assert second["first"] == first["first"]
    assert (await a.get("/v2/images", params={"limit": 0})).json()["images"] == []
    both = await a.get("/v2/images?sort_key=status&sort_dir=asc&sort_key=name&sort_dir=desc")
    assert [image["name"] for image in both.json()["images"]] == ["c", "b", "a"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=x",
        "marker=nowhere",
        "sort=secret",
        "sort=name:up",
        "sort=name&sort_key=name",
        "visibility=odd",
        "member_status=odd",
        "size_min=x",
        "created_at=x",
        "name=%00",
        "os_hidden=x",
    ],
)
async def test_bad_list_is_refused(a: Client, query: str) -> None:
    assert (await a.get(f"/v2/images?{query}")).status_code == 400


async def test_upload_is_refused_for_what_it_is(a: Client) -> None:
    image = await a.image(disk_format="qcow2")
    path = f"/v2/images/{image['id']}/file"
    assert (await a.put(path, content=b"x")).status_code == 415
    assert (await a.fill(image["id"], b"not a qcow2")).status_code == 415
    other_store = await a.put(path, content=b"x", headers={**OCTETS, "X-Image-Meta-Store": "elsewhere"})
    assert other_store.status_code == 400
    assert (await a.get(f"/v2/images/{image['id']}")).json()["status"] == "queued"


async def test_stage_and_import(a: Client) -> None:
    image = await a.image()
    path = f"/v2/images/{image['id']}"
    import_ = {"method": {"name": "glance-direct"}}
    assert (await a.post(f"{path}/import", json=import_)).status_code == 409
    assert (await a.put(f"{path}/stage", content=b"bytes", headers=OCTETS)).status_code == 204
    assert (await a.get(path)).json()["status"] == "uploading"
    assert (await a.get(f"{path}/file")).status_code == 204
    web = {"method": {"name": "web-download", "uri": "http://127.0.0.1/"}}
    assert (await a.post(f"{path}/import", json=web)).status_code == 400
    assert (await a.post(f"{path}/import", json=import_)).status_code == 202
    assert (await a.get(f"{path}/file")).content == b"bytes"
    methods = (await a.get("/v2/info/import")).json()
    assert methods["import-methods"]["value"] == ["glance-direct"]


async def test_tags(a: Client) -> None:
    path = f"/v2/images/{(await a.image())['id']}"
    assert (await a.put(f"{path}/tags/red")).status_code == 204
    assert (await a.put(f"{path}/tags/red")).status_code == 204
    assert (await a.get(path)).json()["tags"] == ["red"]
    assert (await a.delete(f"{path}/tags/red")).status_code == 204
    assert (await a.delete(f"{path}/tags/red")).status_code == 404
    assert (await a.put(f"{path}/tags/{'t' * 256}")).status_code == 400


async def test_members(a: Client, callers: Callers) -> None:
    image, b = await a.image(), callers("b")
    path = f"/v2/images/{image['id']}/members"
    assert (await b.get(path)).status_code == 404
    added = await a.post(path, json={"member": "b"})
    assert (added.status_code, added.json()["status"], added.json()["member_id"]) == (200, "pending", "b")
    assert (await a.post(path, json={"member": "b"})).status_code == 409
    assert (await a.put(f"{path}/b", json={"status": "accepted"})).status_code == 403
    assert (await b.put(f"{path}/b", json={"status": "odd"})).status_code == 400
    assert (await b.put(f"{path}/b", json={"status": "accepted"})).json()["status"] == "accepted"
    assert [each["id"] for each in (await b.get("/v2/images")).json()["images"]] == [image["id"]]
    assert (await b.delete(f"{path}/b")).status_code == 403
    assert [each["member_id"] for each in (await a.get(path)).json()["members"]] == ["b"]
    assert (await a.delete(f"{path}/b")).status_code == 204
    assert (await b.get(path)).status_code == 404


async def test_deactivated_image_is_for_administrators(a: Client, admin: Client) -> None:
    image = await a.image()
    path = f"/v2/images/{image['id']}"
    assert (await admin.post(f"{path}/actions/deactivate")).status_code == 403
    await a.fill(image["id"], b"bytes")
    assert (await a.post(f"{path}/actions/deactivate")).status_code == 403
    assert (await admin.post(f"{path}/actions/deactivate")).status_code == 204
    assert (await a.get(path)).json()["status"] == "deactivated"
    assert (await a.get(f"{path}/file")).status_code == 403
    assert (await admin.get(f"{path}/file")).content == b"bytes"
    assert (await admin.post(f"{path}/actions/reactivate")).status_code == 204
    assert (await a.get(f"{path}/file")).content == b"bytes"
    assert (await admin.post("/v2/images/none/actions/deactivate")).status_code == 404


async def test_every_route_needs_a_token_and_a_reader_changes_nothing(a: Client, callers: Callers) -> None:
    image_id = (await a.image())["id"]
    reader = callers("a", "reader")
    for route in registry.routes:
        path = route.path.format(image_id=image_id, member_id="b", tag="t")
        if route.policy.value != "anyone":
            assert (await a.request(route.method, path, headers={"X-Auth-Token": ""})).status_code == 401, path
        if route.method != "GET":
            assert (await reader.request(route.method, path)).status_code == 403, path
    assert (await reader.get(f"/v2/images/{image_id}")).status_code == 200


async def test_another_projects_image_does_not_exist(a: Client, callers: Callers) -> None:
    image_id = (await a.image(visibility="private"))["id"]
    b = callers("b")
    steps = [{"op": "replace", "path": "/name", "value": "mine"}]
    for answer in (
        await b.get(f"/v2/images/{image_id}"),
        await b.patch(f"/v2/images/{image_id}", json=steps, headers=PATCH),
        await b.delete(f"/v2/images/{image_id}"),
        await b.fill(image_id, b"x"),
        await b.get(f"/v2/images/{image_id}/file"),
        await b.get(f"/v2/images/{image_id}/members"),
        await b.put(f"/v2/images/{image_id}/tags/t"),
    ):
        assert answer.status_code == 404
        assert image_id in answer.json()["message"]


@pytest.mark.parametrize("name", ["image", "images", "member", "members"])
async def test_schemas(a: Client, name: str) -> None:
    schema = (await a.get(f"/v2/schemas/{name}")).json()
    assert schema["name"] == name


async def test_what_is_rendered_is_in_the_schema(a: Client) -> None:
    properties = (await a.get("/v2/schemas/image")).json()["properties"]
    image = await a.image()
    await a.fill(image["id"], b"x")
    assert set((await a.get(f"/v2/images/{image['id']}")).json()) <= set(properties)
