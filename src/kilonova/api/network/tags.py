"""Tags of resources: words that a project gives them, to list by."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from kilonova.api.network.registry import VERSION, registry
from kilonova.api.network.resources import SERVED, Served
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import tags
from kilonova.network.errors import TagNotFound

Tag = Annotated[str, Meta(min_length=1, max_length=255)]


class TagsRequest(Struct, forbid_unknown_fields=True):
    tags: Annotated[list[Tag], Meta(max_length=50)]


def _serve(served: Served) -> None:
    path = f"{VERSION}/{served.plural}/{{id}}/tags"

    @registry.route("GET", path, policy=Policy.READER)
    async def list_(request: ApiRequest) -> Any:
        return {"tags": await tags.show(request.cloud, request.context, served.resource, request.path["id"])}

    @registry.route("PUT", path, body=TagsRequest)
    async def replace(request: ApiRequest, body: TagsRequest) -> Any:
        wanted = list(dict.fromkeys(body.tags))
        await tags.change(request.cloud, request.context, served.resource, request.path["id"], lambda _old: wanted)
        return {"tags": wanted}

    @registry.route("DELETE", path, status=204)
    async def clear(request: ApiRequest) -> None:
        await tags.change(request.cloud, request.context, served.resource, request.path["id"], lambda _old: [])

    @registry.route("GET", f"{path}/{{tag}}", policy=Policy.READER, status=204)
    async def check(request: ApiRequest) -> None:
        found = await tags.show(request.cloud, request.context, served.resource, request.path["id"])
        if request.path["tag"] not in found:
            raise TagNotFound(f"Tag {request.path['tag']} could not be found.")

    @registry.route("PUT", f"{path}/{{tag}}", status=201)
    async def add(request: ApiRequest) -> None:
        tag = request.path["tag"]
        await tags.change(request.cloud, request.context, served.resource, request.path["id"], lambda old: [*old, tag])

    @registry.route("DELETE", f"{path}/{{tag}}", status=204)
    async def remove(request: ApiRequest) -> None:
        tag = request.path["tag"]

        def without(old: list[str]) -> list[str]:
            if tag not in old:
                raise TagNotFound(f"Tag {tag} could not be found.")
            return [other for other in old if other != tag]

        await tags.change(request.cloud, request.context, served.resource, request.path["id"], without)


for _served in SERVED:
    _serve(_served)
