"""The HTTP of the metadata service, on a socket of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest

from kilonova.network.host.metadata import MOST_CONNECTIONS, _Connection


async def _answer(network_id: str, peer: str, path: str) -> tuple[bytes, str] | None:
    if path == "/broken":
        raise RuntimeError("a defect")
    return (f"{network_id} {peer} {path}".encode(), "text/plain") if path.startswith("/latest") else None


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    connections: Counter[tuple[str, str]] = Counter()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection("net", _answer, connections), sock=listener
    )
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


async def test_peer_that_does_not_read_is_not_answered_further() -> None:
    """Else its answers would pile up in the memory of this process."""
    asked: list[str] = []

    async def answer(network_id: str, peer: str, path: str) -> tuple[bytes, str] | None:
        asked.append(path)
        return bytes(4 * 1024 * 1024), "text/plain"

    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection("net", answer, Counter()), sock=listener)
    port = int(listener.getsockname()[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET /user-data HTTP/1.1\r\n\r\n" * 100)
    async with asyncio.timeout(5):
        await reader.readline()
        other, last = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        last.write(b"GET /last HTTP/1.1\r\n\r\n")
        await other.readline()  # by now the first one would have had many

    assert len(asked) <= 4
    writer.close()
    last.close()
    server.close()


async def test_peer_has_no_more_than_its_share_of_connections(port: int) -> None:
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CONNECTIONS)]
    late_reader, late_writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await late_reader.read() == b""
    late_writer.close()

    pairs[-1][1].write(b"GET /latest/ HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(5):
        assert b"200 OK" in await pairs[-1][0].readline()
    for _, writer in pairs:
        writer.close()


async def test_requests_sent_at_once_are_all_answered(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /latest/a HTTP/1.1\r\n\r\n" * 20 + b"GET /latest/b HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()

    assert answer.count(b"200 OK") == 21
