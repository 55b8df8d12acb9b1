"""Images on a host: what may boot, disks laid over them, the cache that fetches them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kilonova.compute.image_cache import ImageCache, ImageSource
from kilonova.compute.image_files import inspect_image, make_overlay
from kilonova.errors import BadRequest, CommandFailed, Unavailable
from kilonova.ids import new_id


def qemu_img(*words: str | Path) -> str:
    return subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.qcow2"
    qemu_img("create", "-f", "qcow2", path, "64M")
    return path


def test_image_is_what_it_says(image: Path) -> None:
    assert inspect_image(image, "qcow2").virtual_size_bytes == 64 * 2**20


def test_image_with_a_backing_file_is_refused(image: Path, tmp_path: Path) -> None:
    thief = tmp_path / "thief.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", thief, "1M")
    with pytest.raises(BadRequest, match="backing file"):
        inspect_image(thief, "qcow2")


def test_image_with_an_external_data_file_is_refused(tmp_path: Path) -> None:
    thief = tmp_path / "thief.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path}/data", thief, "1M")
    with pytest.raises(BadRequest, match="data file"):
        inspect_image(thief, "qcow2")


def test_image_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"no such format" * 100)
    with pytest.raises(BadRequest, match="not a readable qcow2 file"):
        inspect_image(path, "qcow2")
    with pytest.raises(BadRequest, match="cannot boot"):
        inspect_image(path, "ploop")


@pytest.mark.parametrize(("size_gb", "expected"), [(0, 64 * 2**20), (1, 2**30)])
def test_disk_has_the_flavors_size_or_the_images(image: Path, tmp_path: Path, size_gb: int, expected: int) -> None:
    disk = tmp_path / "disk.qcow2"
    make_overlay(disk, image, "qcow2", size_gb)
    info = json.loads(qemu_img("info", "--output=json", disk))
    assert info["virtual-size"] == expected
    assert info["backing-filename"] == str(image)


def test_image_larger_than_the_flavors_disk_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "big.qcow2"
    qemu_img("create", "-f", "qcow2", big, "3G")
    with pytest.raises(BadRequest, match="needs a disk of 3 GB, the flavor gives 1 GB"):
        make_overlay(tmp_path / "disk.qcow2", big, "qcow2", 1)


@dataclass
class ImageService:
    """Answers GET /image/v2/images/ID/file with `body`."""

    body: bytes
    status: int = 200
    requests: list[str] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        head = f"HTTP/1.1 {self.status} x\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + self.body)
        await writer.drain()
        writer.close()


@pytest.fixture
def body(image: Path) -> bytes:
    return image.read_bytes()


@pytest.fixture
async def service(body: bytes) -> AsyncIterator[ImageService]:
    made = ImageService(body)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/image"
    yield made
    server.close()


@pytest.fixture
def cache(service: ImageService, tmp_path: Path) -> ImageCache:
    return ImageCache(tmp_path / "images", service.url, lambda: "secret")


@pytest.fixture
def source(service: ImageService) -> ImageSource:
    digest = hashlib.sha512(service.body).hexdigest()
    return ImageSource(new_id(), "qcow2", len(service.body), hash_algorithm="sha512", hash_value=digest)


async def test_image_is_fetched_once_with_the_token(
    cache: ImageCache, service: ImageService, source: ImageSource
) -> None:
    first, second = await asyncio.gather(cache.realise(source), cache.realise(source))
    assert first == second
    assert first.path.read_bytes() == service.body
    (request,) = service.requests
    assert request.startswith(f"GET /image/v2/images/{source.id}/file ")
    assert "x-auth-token: secret" in request.lower()


async def test_wrong_bytes_are_not_kept(cache: ImageCache, service: ImageService, source: ImageSource) -> None:
    service.body = service.body[:-1] + b"?"
    with pytest.raises(CommandFailed, match="another checksum"):
        await cache.realise(source)
    assert cache.cached() == []
    with pytest.raises(CommandFailed, match="5 bytes, but"):
        await cache.realise(replace(source, size_bytes=5))


@pytest.mark.parametrize(("status", "error"), [(404, BadRequest), (503, Unavailable)])
async def test_refusal_of_the_image_service_names_the_image(
    cache: ImageCache, service: ImageService, source: ImageSource, status: int, error: type[Exception]
) -> None:
    service.status = status
    with pytest.raises(error, match=source.id):
        await cache.realise(source)


async def test_image_service_that_is_down_is_unavailable(tmp_path: Path, source: ImageSource) -> None:
    with pytest.raises(Unavailable):
        await ImageCache(tmp_path / "images", "http://127.0.0.1:1/image", lambda: "").realise(source)


async def test_copies_go_when_unused_for_long_or_when_the_image_is_gone(cache: ImageCache, source: ImageSource) -> None:
    path = (await cache.realise(source)).path
    assert await cache.prune({source.id}, set(), 0) == []
    assert await cache.prune(set(), {source.id}, 3600) == []
    os.utime(path, (time.time() - 7200,) * 2)
    assert await cache.prune(set(), {source.id}, 3600) == [source.id]
    await cache.realise(source)
    assert await cache.prune(set(), set(), 3600) == [source.id]
    assert cache.cached() == []
