"""How the image service reaches the images' bytes: by HTTP at the object store, streaming, and in no other way.

One object per upload, named after the image and the upload, so that a late writer never replaces newer bytes. The HTTP
library is imported at the first use because start-up is counted in milliseconds.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from kilonova.errors import (
    InsufficientStorage,
    InternalError,
    KilonovaError,
    NotFound,
    RangeNotSatisfiable,
    Unavailable,
    Unprocessable,
)

if TYPE_CHECKING:
    import httpx

CONTAINER = "images"
IDLE_TIMEOUT_S = 60.0

_MEANINGS: Mapping[int, type[KilonovaError]] = {
    404: NotFound,
    416: RangeNotSatisfiable,
    422: Unprocessable,
    503: Unavailable,
    507: InsufficientStorage,
}


@dataclass(frozen=True)
class StoredBytes:
    """What the object store found while it wrote."""

    size_bytes: int
    md5: str
    sha512: str


@dataclass(frozen=True)
class StoredObject:
    name: str
    modified_at: datetime


class ImageBytes:
    """A client of the object store's internal account."""

    def __init__(
        self, url: str, token: Callable[[], str], *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """`url` ends in /object-store/v1; `token` gives a valid service token each time it is called."""
        self._base = f"{url}/.kilonova/{CONTAINER}"
        self._token = token
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._has_container = False

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def put(self, name: str, parts: AsyncIterator[bytes], *, length: int | None = None) -> StoredBytes:
        """Stream an object; durable when this answers. What `parts` raises ends the upload and leaves nothing.

        Raises `Unprocessable` when the stream is not `length` bytes long, `InsufficientStorage`, `Unavailable`.
        """
        await self._ensure_container()
        headers = {"Want-Repr-Digest": "sha-512=1", "Content-Type": "application/octet-stream"}
        if length is not None:
            headers["Content-Length"] = str(length)
        response = await self._request("PUT", f"/{quote(name)}", headers=headers, content=parts)
        digest = response.headers.get("repr-digest", "").removeprefix("sha-512=:").removesuffix(":")
        return StoredBytes(
            size_bytes=int(response.headers["x-object-size"]),
            md5=response.headers["etag"].strip('"'),
            sha512=base64.b64decode(digest).hex(),
        )

    async def get(self, name: str, byte_range: str | None = None) -> httpx.Response:
        """An open response to read from and to close; `byte_range` is a Range header's value."""
        headers = {"Range": byte_range} if byte_range else {}
        return await self._request("GET", f"/{quote(name)}", headers=headers, stream=True)

    async def delete(self, name: str) -> None:
        """Remove an object; one that is not there is fine."""
        try:
            await self._request("DELETE", f"/{quote(name)}")
        except NotFound:
            return

    async def list(self, marker: str = "") -> list[StoredObject]:
        """A page of the objects by name, after `marker`; empty at the end."""
        await self._ensure_container()
        response = await self._request("GET", f"?format=json&limit=1000&marker={quote(marker, safe='')}")
        entries = msgspec.json.decode(response.content, type=list[_Entry])
        return [
            StoredObject(entry.name, datetime.fromisoformat(entry.last_modified).replace(tzinfo=UTC))
            for entry in entries
        ]

    async def _ensure_container(self) -> None:
        if not self._has_container:
            await self._request("PUT", "")
            self._has_container = True

    async def _request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: AsyncIterator[bytes] | None = None,
        stream: bool = False,
    ) -> httpx.Response:
        import httpx

        client = self._client or self._connect()
        request = client.build_request(
            method, self._base + path, headers={"X-Auth-Token": self._token(), **(headers or {})}, content=content
        )
        try:
            response = await client.send(request, stream=stream)
            if response.status_code >= 400:
                await response.aread()
                await response.aclose()
                meaning = _MEANINGS.get(response.status_code, InternalError)
                raise meaning(f"the object store refused: {response.text.strip()[:500]} ({response.status_code})")
        except httpx.HTTPError as error:
            raise Unavailable(f"the object store does not answer ({type(error).__name__}): try again later") from error
        return response

    def _connect(self) -> httpx.AsyncClient:
        import httpx

        self._client = httpx.AsyncClient(
            transport=self._transport,
            timeout=httpx.Timeout(IDLE_TIMEOUT_S, connect=5.0, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=4.0),
            trust_env=False,
        )
        return self._client


class _Entry(msgspec.Struct):
    name: str
    last_modified: str
