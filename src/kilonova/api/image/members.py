"""Routes of an image's members: the projects that it is shared with."""

from __future__ import annotations

from typing import Any

import msgspec

from kilonova.api.image import view
from kilonova.api.image.registry import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import image_members


class NewMember(msgspec.Struct):
    member: str


class MemberStatus(msgspec.Struct):
    status: str


@registry.route("GET", "/v2/images/{image_id}/members", policy=Policy.READER)
async def list_members(request: ApiRequest) -> dict[str, Any]:
    found = await request.cloud.store.read(image_members.list_, request.context, request.path["image_id"])
    return {"members": [view.member(row) for row in found], "schema": "/v2/schemas/members"}


@registry.route("POST", "/v2/images/{image_id}/members", body=NewMember)
async def add_member(request: ApiRequest, body: NewMember) -> dict[str, Any]:
    return view.member(
        await request.cloud.store.write(image_members.add, request.context, request.path["image_id"], body.member)
    )


@registry.route("GET", "/v2/images/{image_id}/members/{member_id}", policy=Policy.READER)
async def show_member(request: ApiRequest) -> dict[str, Any]:
    image_id, project_id = request.path["image_id"], request.path["member_id"]
    return view.member(await request.cloud.store.read(image_members.get, request.context, image_id, project_id))


@registry.route("PUT", "/v2/images/{image_id}/members/{member_id}", body=MemberStatus)
async def set_member_status(request: ApiRequest, body: MemberStatus) -> dict[str, Any]:
    image_id, project_id = request.path["image_id"], request.path["member_id"]
    return view.member(
        await request.cloud.store.write(image_members.set_status, request.context, image_id, project_id, body.status)
    )


@registry.route("DELETE", "/v2/images/{image_id}/members/{member_id}", status=204)
async def remove_member(request: ApiRequest) -> None:
    image_id, project_id = request.path["image_id"], request.path["member_id"]
    await request.cloud.store.write(image_members.remove, request.context, image_id, project_id)
