"""Routes of images: list, create, show, change, delete, tags, deactivate."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

from kilonova.api.image import patch, view
from kilonova.api.image.registry import registry
from kilonova.api.routing import ApiRequest
from kilonova.api.server import refuse_nul
from kilonova.auth.policy import Policy
from kilonova.cloud import image_list, image_upload, images
from kilonova.cloud.image_list import SORT_COLUMNS, Filters
from kilonova.errors import BadRequest, TooLarge
from kilonova.store.paging import Page, SortKey

DEFAULT_LIMIT = 25
MOST_LIMIT = 1000
IMPORT_METHODS = "glance-direct"

_PAGING = frozenset({"limit", "marker", "sort", "sort_key", "sort_dir"})
_OWN_FILTERS = frozenset({"tag", "visibility", "member_status", "os_hidden"})


@registry.route(
    "GET",
    "/v2/images",
    policy=Policy.READER,
    query=(
        *("limit", "marker", "sort", "sort_key", "sort_dir", "name", "status", "visibility", "owner", "tag"),
        *("member_status", "disk_format", "container_format", "size_min", "size_max", "created_at", "updated_at"),
        *("protected", "os_hidden", "id", "checksum", "min_disk", "min_ram"),
    ),
)
async def list_images(request: ApiRequest) -> dict[str, Any]:
    limit = request.query_int("limit", most=MOST_LIMIT)
    limit = DEFAULT_LIMIT if limit is None else limit
    page = Page(limit + 1, request.query("marker") or None, _sort(request))
    found = await request.cloud.store.read(image_list.list_, request.context, _filters(request), page)
    shown = found[:limit]
    kept = [(name, value) for name, value in request.http.query_params.multi_items() if name != "marker"]
    document: dict[str, Any] = {
        "images": [view.image(row) for row in shown],
        "schema": "/v2/schemas/images",
        "first": _link(kept),
    }
    if len(found) > limit and shown:
        document["next"] = _link([*kept, ("marker", shown[-1].id)])
    return document


@registry.route("POST", "/v2/images", status=201, streams=True)
async def create_image(request: ApiRequest) -> dict[str, Any]:
    row = await request.cloud.store.write(images.create, request.context, await json_object(request))
    request.response_headers["Location"] = f"{request.base_url}/image/v2/images/{row.id}"
    request.response_headers["OpenStack-image-import-methods"] = IMPORT_METHODS
    request.response_headers["OpenStack-image-store-ids"] = view.STORE
    return view.image(row)


@registry.route("GET", "/v2/images/{image_id}", policy=Policy.READER)
async def show_image(request: ApiRequest) -> dict[str, Any]:
    return view.image(await request.cloud.store.read(images.get, request.context, request.path["image_id"]))


@registry.route("PATCH", "/v2/images/{image_id}", streams=True)
async def change_image(request: ApiRequest) -> dict[str, Any]:
    request.response_headers["Accept-Patch"] = patch.MEDIA_TYPES
    body = await read_body(request)
    steps = patch.changes(body, request.http.headers.get("content-type", ""))
    return view.image(await request.cloud.store.write(images.change, request.context, request.path["image_id"], steps))


@registry.route("DELETE", "/v2/images/{image_id}", status=204)
async def delete_image(request: ApiRequest) -> None:
    name = await request.cloud.store.write(images.delete_, request.context, request.path["image_id"])
    if request.services.image_bytes is not None:
        await image_upload.remove_bytes(request.services.image_bytes, name)


@registry.route("PUT", "/v2/images/{image_id}/tags/{tag}", status=204)
async def add_tag(request: ApiRequest) -> None:
    await request.cloud.store.write(images.add_tag, request.context, request.path["image_id"], request.path["tag"])


@registry.route("DELETE", "/v2/images/{image_id}/tags/{tag}", status=204)
async def remove_tag(request: ApiRequest) -> None:
    await request.cloud.store.write(images.remove_tag, request.context, request.path["image_id"], request.path["tag"])


@registry.route("POST", "/v2/images/{image_id}/actions/deactivate", policy=Policy.ADMIN, status=204)
async def deactivate(request: ApiRequest) -> None:
    await request.cloud.store.write(images.deactivate, request.path["image_id"])


@registry.route("POST", "/v2/images/{image_id}/actions/reactivate", policy=Policy.ADMIN, status=204)
async def reactivate(request: ApiRequest) -> None:
    await request.cloud.store.write(images.reactivate, request.path["image_id"])


# ------------------------------------------------------------------------------------------------ parsing
async def read_body(request: ApiRequest) -> bytes:
    """A small body. Raises `TooLarge`."""
    body, most = bytearray(), request.config.api.max_body_bytes
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise TooLarge(f"The body is larger than {most} bytes")
    refuse_nul(bytes(body))
    return bytes(body)


async def json_object(request: ApiRequest) -> dict[str, Any]:
    """A body of any names and values."""
    try:
        return msgspec.json.decode(await read_body(request), type=dict[str, Any])
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not a JSON object: {error}") from None


def _filters(request: ApiRequest) -> Filters:
    query = request.http.query_params
    if any("\x00" in name or "\x00" in value for name, value in query.multi_items()):
        raise BadRequest("a NUL character is not allowed in a filter")
    return Filters(
        by_name={name: value for name, value in query.items() if name not in _PAGING | _OWN_FILTERS},
        tags=request.query_all("tag"),
        visibility=request.query("visibility"),
        member_status=request.query("member_status") or "accepted",
        hidden=request.query_bool("os_hidden") or False,
    )


def _sort(request: ApiRequest) -> tuple[SortKey, ...]:
    """`sort=name:asc,size:desc`, or the older repeated `sort_key` and `sort_dir`."""
    together = request.query("sort")
    keys, directions = request.query_all("sort_key"), request.query_all("sort_dir")
    if together is not None:
        if keys or directions:
            raise BadRequest("sort: use either sort, or sort_key and sort_dir")
        pairs = [item.strip().partition(":") for item in together.split(",")]
        return tuple(_sort_key(name.strip(), direction.strip() or "desc") for name, _, direction in pairs)
    if len(directions) > max(len(keys), 1):
        raise BadRequest("sort_dir: more directions than keys")
    keys = keys or (["created_at"] if directions else [])
    filled = directions + [directions[0] if len(directions) == 1 else "desc"] * (len(keys) - len(directions))
    return tuple(_sort_key(key, direction) for key, direction in zip(keys, filled, strict=True))


def _sort_key(name: str, direction: str) -> SortKey:
    if name not in SORT_COLUMNS:
        raise BadRequest(f"sort_key: '{name[:80]}' is none of {', '.join(SORT_COLUMNS)}")
    if direction not in {"asc", "desc"}:
        raise BadRequest(f"sort_dir: '{direction[:80]}' is neither asc nor desc")
    return SortKey(SORT_COLUMNS[name], direction == "desc")


def _link(query: list[tuple[str, str]]) -> str:
    return f"/v2/images?{urlencode(query)}" if query else "/v2/images"
