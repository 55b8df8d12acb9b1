"""The HTTP of the metadata service, on a socket of this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from kilonova.network.host.metadata import _Connection


async def _answer(network_id: str, peer: str, path: str) -> tuple[bytes, str] | None:
    if path == "/broken":
        raise RuntimeError("a defect")
    return (f"{network_id} {peer} {path}".encode(), "text/plain") if path.startswith("/latest") else None


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(lambda: _Connection("net", _answer), sock=listener)
    yield int(listener.getsockname()[1])
    server.close()


async def test_answers_one_request_after_the_other_on_one_connection(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        first, second = await client.get("/latest/meta-data/"), await client.head("/latest/user-data")
        missing, refused = await client.get("/nothing"), await client.put("/latest/api/token")
        broken = await client.get("/broken")

    assert (first.status_code, first.text) == (200, "net 127.0.0.1 /latest/meta-data/")
    assert (second.status_code, second.content) == (200, b"")
    assert (missing.status_code, refused.status_code, broken.status_code) == (404, 405, 503)


async def test_closes_after_one_answer_when_asked_to(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /latest/ HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in answer


@pytest.mark.parametrize("noise", [b"nonsense\r\n\r\n", b"GET /" + b"x" * 20000])
async def test_nonsense_is_refused_and_the_connection_ends(port: int, noise: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(noise)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()

    assert b"400 Bad Request" in answer
