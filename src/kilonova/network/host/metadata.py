"""The metadata service: a socket inside each network's service namespace, served by this process.

Who asks is (network of the socket, peer's address), which anti-spoofing guarantees; the agent says which instance that
is, and `kilonova.metadata` what it may read.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import cast

import httptools

from kilonova.network.host import namespaces
from kilonova.network.plan import METADATA_ADDRESS

log = logging.getLogger(__name__)

PORT = 80
IDLE_S = 30.0
MOST_CONNECTIONS = 32
"""Of one peer at a time: no guest shall use up this process's descriptors or memory."""
_LARGEST_REQUEST = 16384

Answer = Callable[[str, str, str], Awaitable[tuple[bytes, str] | None]]
"""(network id, peer's address, path) -> body and media type; none: there is no such thing, or nobody known asks."""


class MetadataService:
    """The listeners of a host."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._servers: dict[str, asyncio.Server] = {}
        self._identities: dict[str, int] = {}
        self._connections: Counter[tuple[str, str]] = Counter()

    async def serve(self, wanted: dict[str, str]) -> dict[str, str]:
        """Listen for exactly these networks (id -> namespace); the failures, by network."""
        failures: dict[str, str] = {}
        for network_id in self._servers.keys() - wanted.keys():
            await self._stop(network_id)
        for network_id, namespace in wanted.items():
            try:
                identity = namespaces.identity(namespace)
                if self._identities.get(network_id) == identity:
                    continue
                await self._stop(network_id)
                await self._start(network_id, namespace)
                self._identities[network_id] = identity
            except Exception as error:
                log.exception("metadata of network %s", network_id)
                failures[network_id] = f"metadata service: {error}"
        return failures

    async def close(self) -> None:
        for network_id in list(self._servers):
            await self._stop(network_id)

    async def _start(self, network_id: str, namespace: str) -> None:
        listener = await asyncio.to_thread(namespaces.run_inside, namespace, _listen)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Connection(network_id, self._answer, self._connections), sock=listener
        )
        self._servers[network_id] = server

    async def _stop(self, network_id: str) -> None:
        self._identities.pop(network_id, None)
        server = self._servers.pop(network_id, None)
        if server is not None:
            server.close()


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((METADATA_ADDRESS, PORT))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


class _Connection(asyncio.Protocol):
    """HTTP/1.1: GET and HEAD, one request after the other.

    Nothing is read while answers are due, and nothing answered while the peer does not read.
    """

    def __init__(self, network_id: str, answer: Answer, connections: Counter[tuple[str, str]]) -> None:
        """`connections` counts those that are open, by network and peer."""
        self._network_id = network_id
        self._answer = answer
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._received = 0
        self._requests: asyncio.Queue[tuple[str, str, bool]] = asyncio.Queue()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._peer = ""
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._peer = str(transport.get_extra_info("peername")[0])
        self._connections[self._network_id, self._peer] += 1
        if self._connections[self._network_id, self._peer] > MOST_CONNECTIONS:
            self._transport.abort()
            return
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        mine = (self._network_id, self._peer)
        self._connections[mine] -= 1
        if not self._connections[mine]:
            del self._connections[mine]
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        try:
            if self._received > _LARGEST_REQUEST:
                raise httptools.HttpParserError("too large")
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._send(HTTPStatus.BAD_REQUEST, b"", "text/plain", keep=False, head=False)

    # called by the parser
    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_message_complete(self) -> None:
        self._received = 0
        method = self._parser.get_method().decode()
        self._requests.put_nowait((method, self._url.decode(errors="replace"), self._parser.should_keep_alive()))
        if self._transport is not None:
            self._transport.pause_reading()

    async def _serve(self) -> None:
        keep = True
        while keep and self._transport is not None:
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._writable.wait()
                    if self._requests.empty():
                        self._transport.resume_reading()
                    method, path, keep = await self._requests.get()
            except TimeoutError:
                self._transport.abort()
                return
            if method not in ("GET", "HEAD"):
                self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"", "text/plain", keep=keep, head=False)
                continue
            try:
                found = await self._answer(self._network_id, self._peer, path)
            except Exception:
                log.exception("metadata for %s on network %s", self._peer, self._network_id)
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, b"", "text/plain", keep=keep, head=False)
                continue
            status = HTTPStatus.OK if found else HTTPStatus.NOT_FOUND
            body, media_type = found or (b"404 Not Found\n", "text/plain")
            self._send(status, body, media_type, keep=keep, head=method == "HEAD")
        if self._transport is not None:
            self._transport.close()

    def _send(self, status: HTTPStatus, body: bytes, media_type: str, *, keep: bool, head: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {media_type}",
            f"Content-Length: {len(body)}",
            f"Connection: {'keep-alive' if keep else 'close'}",
        ]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head else body))
        if not keep:
            self._transport.close()
