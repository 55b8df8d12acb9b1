"""A project's tags."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection
from starlette.responses import Response

from kilonova.api.identity.bodies import Tag, TagList
from kilonova.api.identity.collections import link
from kilonova.api.identity.projects import own_or_admin
from kilonova.api.identity.routes import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth import projects as units
from kilonova.auth.policy import Policy
from kilonova.auth.projects import Project
from kilonova.errors import BadRequest, NotFound

MOST = 80


@registry.route("GET", "/v3/projects/{project_id}/tags", policy=Policy.AUTHENTICATED)
async def listing(request: ApiRequest) -> dict[str, Any]:
    """List a project's tags."""
    project = await request.auth.store.read(units.find, own_or_admin(request))
    return {"tags": project.tags, "links": link(request, "projects", project.id, "tags")}


@registry.route("PUT", "/v3/projects/{project_id}/tags", policy=Policy.ADMIN, body=TagList)
async def replace(request: ApiRequest, body: TagList) -> dict[str, Any]:
    """Replace all tags."""
    values = {"tags": sorted(set(body.tags))}
    project = await request.auth.change(units.change, request.path["project_id"], values)
    return {"tags": project.tags, "links": link(request, "projects", project.id, "tags")}


@registry.route("DELETE", "/v3/projects/{project_id}/tags", policy=Policy.ADMIN, status=204)
async def clear(request: ApiRequest) -> None:
    """Remove all tags."""
    await request.auth.change(units.change, request.path["project_id"], {"tags": []})


@registry.route("GET", "/v3/projects/{project_id}/tags/{tag}", policy=Policy.AUTHENTICATED, status=204)
async def check(request: ApiRequest) -> None:
    """Say whether a project has a tag."""
    project = await request.auth.store.read(units.find, own_or_admin(request))
    _require(project, request.path["tag"])


@registry.route("PUT", "/v3/projects/{project_id}/tags/{tag}", policy=Policy.ADMIN, status=201)
async def add(request: ApiRequest) -> Response:
    """Add a tag."""
    tag = _checked(request.path["tag"])

    def unit(tx: Connection, project_id: str) -> None:
        tags = {*units.find(tx, project_id).tags, tag}
        if len(tags) > MOST:
            raise BadRequest(f"Project {project_id} has {MOST} tags already, which is the most")
        units.change(tx, project_id, {"tags": sorted(tags)})

    await request.auth.change(unit, request.path["project_id"])
    return Response(status_code=201)


@registry.route("DELETE", "/v3/projects/{project_id}/tags/{tag}", policy=Policy.ADMIN, status=204)
async def remove(request: ApiRequest) -> None:
    """Remove a tag."""

    def unit(tx: Connection, project_id: str, tag: str) -> None:
        project = units.find(tx, project_id)
        _require(project, tag)
        units.change(tx, project_id, {"tags": [other for other in project.tags if other != tag]})

    await request.auth.change(unit, request.path["project_id"], request.path["tag"])


def _require(project: Project, tag: str) -> None:
    if tag not in project.tags:
        raise NotFound(f"Could not find project tag: {tag}.")


def _checked(tag: str) -> str:
    try:
        return msgspec.convert(tag, Tag)
    except msgspec.ValidationError as error:
        raise BadRequest(f"tag: {error}") from None
