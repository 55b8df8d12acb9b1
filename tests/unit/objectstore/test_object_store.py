"""The object store through its HTTP face, without a network."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import InsufficientStorage, Unauthorized, Unavailable
from kilonova.ids import ProjectId, RequestId
from kilonova.objectstore.blobs import BlobDirectory
from kilonova.objectstore.component import ObjectStore
from kilonova.objectstore.http import ObjectStoreApplication
from kilonova.store.database import Store

MINE = "/object-store/v1/AUTH_p1"

CALLERS = {
    "member": Context(request_id=RequestId("r"), project_id=ProjectId("p1"), roles=frozenset({"member"})),
    "reader": Context(request_id=RequestId("r"), project_id=ProjectId("p1"), roles=frozenset({"reader"})),
    "other": Context(request_id=RequestId("r"), project_id=ProjectId("p2"), roles=frozenset({"member"})),
    "service": Context(request_id=RequestId("r"), roles=frozenset({"service"})),
}


def authenticate(token: str, _request_id: RequestId) -> Context:
    if token not in CALLERS:
        raise Unauthorized("The token is not valid")
    return CALLERS[token]


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    store = Store(f"sqlite:///{tmp_path}/k.sqlite")
    await store.open()
    component = ObjectStore(store, Config(state_dir=tmp_path))
    await component.start()
    yield component
    await component.stop()
    await store.close()


@pytest.fixture
async def client(objects: ObjectStore) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(ObjectStoreApplication(objects, authenticate))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"X-Auth-Token": "member"}
    ) as http:
        assert (await http.put(f"{MINE}/c")).status_code == 201
        yield http


def files(tmp_path: Path) -> list[Path]:
    """Every blob and temporary file on the disk."""
    return [path for path in (tmp_path / "objects").rglob("*") if path.is_file() and path.name != "lock"]


async def test_object_comes_back_as_it_was_put(client: httpx.AsyncClient) -> None:
    body = os.urandom(3_000_000)
    put = await client.put(
        f"{MINE}/c/a/b%2Fc d", content=body, headers={"X-Object-Meta-Colour": "red", "Content-Type": "x/y"}
    )
    got = await client.get(f"{MINE}/c/a/b/c d")
    assert put.status_code == 201
    assert put.headers["etag"] == hashlib.md5(body).hexdigest()
    assert got.content == body
    assert (got.headers["content-type"], got.headers["x-object-meta-colour"]) == ("x/y", "red")
    head = await client.head(f"{MINE}/c/a/b/c d")
    assert (head.status_code, head.headers["content-length"]) == (200, "3000000")


async def test_digest_is_given_when_asked_for(client: httpx.AsyncClient) -> None:
    put = await client.put(f"{MINE}/c/o", content=b"abc", headers={"Want-Repr-Digest": "sha-512=1"})
    digest = base64.b64encode(hashlib.sha512(b"abc").digest()).decode()
    assert put.headers["repr-digest"] == f"sha-512=:{digest}:"


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-100", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, None),
        ("bytes=4-2", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
async def test_ranges(
    client: httpx.AsyncClient, asked: str, status: int, body: bytes | None, content_range: str | None
) -> None:
    await client.put(f"{MINE}/c/o", content=b"0123456789")
    got = await client.get(f"{MINE}/c/o", headers={"Range": asked})
    assert got.status_code == status
    if body is not None:
        assert got.content == body
    assert got.headers.get("content-range") == content_range


async def test_conditional_requests(client: httpx.AsyncClient) -> None:
    etag = (await client.put(f"{MINE}/c/o", content=b"x")).headers["etag"]

    async def status(method: str, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await client.request(method, f"{MINE}/c/o", headers=named)).status_code

    assert await status("GET", if_none_match=f'"{etag}"') == 304
    assert await status("GET", if_match="other") == 412
    assert await status("HEAD", if_match=etag) == 200
    assert await status("PUT", if_none_match="*", content_length="0") == 412
    assert await status("GET", if_modified_since="Fri, 01 Jan 2100 00:00:00 GMT") == 304
    assert await status("GET", if_unmodified_since="Fri, 01 Jan 2010 00:00:00 GMT") == 412


async def test_wrong_checksum_or_length_leaves_nothing(client: httpx.AsyncClient, tmp_path: Path) -> None:
    lying = await client.put(f"{MINE}/c/o", content=b"abc", headers={"ETag": "0" * 32})
    short = await client.put(f"{MINE}/c/o", content=b"abc", headers={"Content-Length": "4"})
    assert (lying.status_code, short.status_code) == (422, 422)
    assert (await client.get(f"{MINE}/c/o")).status_code == 404
    assert files(tmp_path) == []


async def test_broken_stream_leaves_the_old_object(client: httpx.AsyncClient, tmp_path: Path) -> None:
    await client.put(f"{MINE}/c/o", content=b"old")

    async def breaks() -> AsyncIterator[bytes]:
        yield b"n" * 2_000_000
        raise ConnectionResetError("the client went away")

    assert (await client.put(f"{MINE}/c/o", content=breaks())).status_code == 500
    assert (await client.get(f"{MINE}/c/o")).content == b"old"
    assert len(files(tmp_path)) == 1


async def test_replaced_and_deleted_bytes_are_removed(client: httpx.AsyncClient, tmp_path: Path) -> None:
    await client.put(f"{MINE}/c/o", content=b"one")
    await client.put(f"{MINE}/c/o", content=b"two")
    assert [path.read_bytes() for path in files(tmp_path)] == [b"two"]
    assert (await client.delete(f"{MINE}/c/o")).status_code == 204
    assert files(tmp_path) == []
    assert (await client.delete(f"{MINE}/c/o")).status_code == 404


async def test_reader_of_an_object_is_not_disturbed_by_its_replacement(objects: ObjectStore) -> None:
    async def body(text: bytes) -> AsyncIterator[bytes]:
        yield text

    from kilonova.objectstore.component import Upload

    await objects.put_container("a", "c", {})
    await objects.put_object("a", "c", "o", body(b"old"), Upload())
    row, file = await objects.open_object("a", "c", "o")
    await objects.put_object("a", "c", "o", body(b"newer"), Upload())
    assert b"".join([part async for part in objects.read(file, 0, row.size_bytes)]) == b"old"
    assert file.closed


async def test_concurrent_puts_of_one_object_leave_one_whole(client: httpx.AsyncClient, tmp_path: Path) -> None:
    bodies = [bytes([n]) * 100_000 for n in range(8)]
    await asyncio.gather(*(client.put(f"{MINE}/c/o", content=body) for body in bodies))
    assert (await client.get(f"{MINE}/c/o")).content in bodies
    assert len(files(tmp_path)) == 1


async def test_listings(client: httpx.AsyncClient) -> None:
    for name in ("a", "b/1", "b/2", "b/c/3", "d", "e/1"):
        await client.put(f"{MINE}/c/{name}", content=b"x")

    async def names(**query: str) -> list[str]:
        found = (await client.get(f"{MINE}/c", params={"format": "json", **query})).json()
        return [entry.get("name") or entry["subdir"] for entry in found]

    assert await names() == ["a", "b/1", "b/2", "b/c/3", "d", "e/1"]
    assert await names(marker="b/1", limit="2") == ["b/2", "b/c/3"]
    assert await names(end_marker="b/2") == ["a", "b/1"]
    assert await names(prefix="b/") == ["b/1", "b/2", "b/c/3"]
    assert await names(delimiter="/") == ["a", "b/", "d", "e/"]
    assert await names(delimiter="/", prefix="b/") == ["b/1", "b/2", "b/c/"]
    assert await names(delimiter="/", marker="b/", limit="1") == ["d"]
    assert await names(delimiter="/", limit="2") == ["a", "b/"]
    assert await names(delimiter="/", reverse="true") == ["e/", "d", "b/", "a"]
    assert (await client.get(f"{MINE}/c")).text == "a\nb/1\nb/2\nb/c/3\nd\ne/1\n"
    assert (await client.get(f"{MINE}/c", params={"prefix": "z"})).status_code == 204
    assert (await client.get(f"{MINE}/c", params={"limit": "10001"})).status_code == 412


async def test_folded_listing_steps_over_what_it_folds(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilonova.objectstore.rows.PAGE", 3)
    for name in (*(f"a/{n}" for n in range(10)), "b", *(f"c/{n}" for n in range(4)), "d"):
        await client.put(f"{MINE}/c/{name}", content=b"")
    for reverse in ("", "true"):
        found = (await client.get(f"{MINE}/c", params={"format": "json", "delimiter": "/", "reverse": reverse})).json()
        names = [entry.get("name") or entry["subdir"] for entry in found]
        assert names == (["d", "c/", "b", "a/"] if reverse else ["a/", "b", "c/", "d"])


async def test_containers(client: httpx.AsyncClient) -> None:
    assert (await client.put(f"{MINE}/c", headers={"X-Container-Meta-Who": "me"})).status_code == 202
    await client.put(f"{MINE}/c/o", content=b"12345")
    head = await client.head(f"{MINE}/c")
    assert head.status_code == 204
    assert head.headers["x-container-object-count"] == "1"
    assert head.headers["x-container-bytes-used"] == "5"
    assert head.headers["x-container-meta-who"] == "me"
    assert (await client.post(f"{MINE}/c", headers={"X-Remove-Container-Meta-Who": "x"})).status_code == 204
    assert "x-container-meta-who" not in (await client.head(f"{MINE}/c")).headers
    listed = (await client.get(MINE, params={"format": "json"})).json()
    assert [(entry["name"], entry["count"], entry["bytes"]) for entry in listed] == [("c", 1, 5)]
    assert (await client.head(MINE)).headers["x-account-bytes-used"] == "5"
    assert (await client.delete(f"{MINE}/c")).status_code == 409
    await client.delete(f"{MINE}/c/o")
    assert (await client.delete(f"{MINE}/c")).status_code == 204
    assert (await client.put(f"{MINE}/c/o", content=b"")).status_code == 404


async def test_object_metadata_can_be_replaced(client: httpx.AsyncClient) -> None:
    await client.put(f"{MINE}/c/o", content=b"x", headers={"X-Object-Meta-A": "1"})
    assert (await client.post(f"{MINE}/c/o", headers={"X-Object-Meta-B": "2"})).status_code == 202
    headers = (await client.head(f"{MINE}/c/o")).headers
    assert headers["x-object-meta-b"] == "2"
    assert "x-object-meta-a" not in headers


@pytest.mark.parametrize(
    ("token", "method", "path", "status"),
    [
        ("forged", "GET", MINE, 401),
        ("other", "GET", MINE, 403),
        ("other", "PUT", f"{MINE}/c/o", 403),
        ("reader", "GET", f"{MINE}/c", 204),
        ("reader", "PUT", f"{MINE}/c/o", 403),
        ("member", "GET", "/object-store/v1/.kilonova", 403),
        ("member", "GET", "/object-store/v1/.kilonova/images/x", 403),
        ("service", "PUT", "/object-store/v1/.kilonova/images", 201),
        ("service", "GET", MINE, 403),
        ("member", "PATCH", f"{MINE}/c", 405),
        ("member", "GET", "/object-store/v2/AUTH_p1", 404),
        ("member", "PUT", f"{MINE}/{'n' * 257}", 400),
        ("member", "PUT", f"{MINE}/c/{'n' * 1025}", 400),
        ("member", "PUT", f"{MINE}/a%2Fb", 412),
        ("member", "PUT", f"{MINE}/c/a%00b", 412),
        ("member", "PUT", f"{MINE}/c/%ff", 412),
        ("member", "GET", f"{MINE}/c/%2e%2e/%2e%2e/AUTH_p2", 404),
    ],
)
async def test_who_may_do_what_and_which_names_are_refused(
    client: httpx.AsyncClient, token: str, method: str, path: str, status: int
) -> None:
    url = httpx.URL("http://test").copy_with(raw_path=path.encode())
    assert (await client.request(method, url, headers={"X-Auth-Token": token})).status_code == status


async def test_info_needs_no_token(client: httpx.AsyncClient) -> None:
    assert "swift" in (await client.get("/object-store/info", headers={"X-Auth-Token": ""})).json()


async def test_start_removes_files_without_an_owner_and_keeps_the_rest(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/k.sqlite")
    await store.open()
    config = Config(state_dir=tmp_path)
    first = ObjectStore(store, config)
    await first.start()
    http = httpx.AsyncClient(transport=httpx.ASGITransport(ObjectStoreApplication(first, authenticate)))
    http.headers["X-Auth-Token"] = "member"
    await http.put(f"http://test{MINE}/c")
    await http.put(f"http://test{MINE}/c/o", content=b"kept")
    (tmp_path / "objects/incoming/half").write_bytes(b"half")
    (tmp_path / "objects/ab").mkdir(exist_ok=True)
    (tmp_path / "objects/ab/ab00").write_bytes(b"orphan")
    assert await first.sweep(older_than_s=3600) == 0
    await first.stop()

    second = ObjectStore(store, config)
    await second.start()
    assert [path.read_bytes() for path in files(tmp_path)] == [b"kept"]
    with pytest.raises(Unavailable, match="in use"):
        await ObjectStore(store, config).start()
    await second.stop()
    await store.close()


async def test_sweep_spares_what_is_younger_than_the_grace_time(objects: ObjectStore, tmp_path: Path) -> None:
    young, old = tmp_path / "objects/incoming/young", tmp_path / "objects/incoming/old"
    for path in (young, old):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 100, time.time() - 100))
    assert await objects.sweep(older_than_s=50) == 1
    assert files(tmp_path) == [young]


async def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = BlobDirectory(tmp_path / "objects")
    blobs.open()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InsufficientStorage, match="full"):
        await blobs.receive(body())
    assert files(tmp_path) == []
    blobs.close()


async def test_blob_is_durable_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = BlobDirectory(tmp_path / "objects")
    blobs.open()
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noting_fsync(descriptor: int) -> None:
        steps.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def noting_rename(source: Path, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "rename", noting_rename)

    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    await blobs.receive(body())
    assert steps == ["file", "directory", "rename", "directory"]
    blobs.close()
