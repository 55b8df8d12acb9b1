"""Routes of an image's bytes: upload, download, stage and import. They stream; nothing is gathered here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from kilonova.api.image import view
from kilonova.api.image.registry import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import image_upload, images
from kilonova.cloud.image_bytes import ImageBytes
from kilonova.errors import BadRequest, Forbidden, NotFound, NotSupported, Unavailable, UnsupportedMediaType

if TYPE_CHECKING:
    import httpx


class ImportMethod(msgspec.Struct):
    name: str


class ImportBody(msgspec.Struct):
    method: ImportMethod
    stores: list[str] = []
    all_stores: bool = False
    all_stores_must_succeed: bool = True


@registry.route("PUT", "/v2/images/{image_id}/file", status=204, streams=True)
async def upload(request: ApiRequest) -> None:
    await _receive(request, staged=False)


@registry.route("PUT", "/v2/images/{image_id}/stage", status=204, streams=True)
async def stage(request: ApiRequest) -> None:
    await _receive(request, staged=True)


@registry.route("POST", "/v2/images/{image_id}/import", status=202, body=ImportBody)
async def import_(request: ApiRequest, body: ImportBody) -> None:
    if body.method.name != "glance-direct":
        raise BadRequest(f"method: '{body.method.name[:40]}' is not enabled here; use glance-direct")
    _check_stores(body.stores)
    await request.cloud.store.write(image_upload.import_staged, request.context, request.path["image_id"])


@registry.route("GET", "/v2/images/{image_id}/file", policy=Policy.READER)
async def download(request: ApiRequest) -> Response:
    """The bytes or a range of them; 204 while there are none."""
    image_id = request.path["image_id"]
    image = await request.cloud.store.read(images.get, request.context, image_id)
    if image.status == "deactivated" and not request.context.is_admin:
        raise Forbidden(f"image {image_id} is deactivated: only an administrator may download it")
    if image.status not in {"active", "deactivated"} or image.object_name is None:
        return Response(status_code=204)
    try:
        upstream = await _image_bytes(request).get(image.object_name, request.http.headers.get("range"))
    except NotFound:
        raise Unavailable(f"the bytes of image {image_id} are missing from the object store") from None
    headers = {"Content-Length": upstream.headers["content-length"], "Accept-Ranges": "bytes"}
    if "content-range" in upstream.headers:
        headers["Content-Range"] = upstream.headers["content-range"]
    elif image.checksum:
        headers["Content-MD5"] = image.checksum
    return _Relay(upstream, headers)


class _Relay(StreamingResponse):
    """Passes on what the object store sends and ends its connection, also when the client goes away."""

    def __init__(self, upstream: httpx.Response, headers: dict[str, str]) -> None:
        self._upstream = upstream
        super().__init__(upstream.aiter_raw(), upstream.status_code, headers, media_type="application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._upstream.aclose()


async def _receive(request: ApiRequest, *, staged: bool) -> None:
    content_type = request.http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/octet-stream":
        raise UnsupportedMediaType("Content-Type: an image's bytes are sent as application/octet-stream")
    if store := request.http.headers.get("x-image-meta-store"):
        _check_stores([store])
    length = request.http.headers.get("content-length", "")
    if length and not length.isdecimal():
        raise BadRequest(f"Content-Length: '{length[:40]}' is not a number")
    await image_upload.upload(
        request.cloud.store,
        _image_bytes(request),
        request.context,
        request.path["image_id"],
        _parts(request),
        length=int(length) if length else None,
        staged=staged,
    )


async def _parts(request: ApiRequest) -> AsyncIterator[bytes]:
    async for part in request.stream():
        yield part


def _check_stores(names: list[str]) -> None:
    for name in names:
        if name != view.STORE:
            raise BadRequest(f"store: '{name[:80]}' does not exist; the only one is {view.STORE}")


def _image_bytes(request: ApiRequest) -> ImageBytes:
    if request.services.image_bytes is None:
        raise NotSupported("this API server does not serve the bytes of images")
    return request.services.image_bytes
