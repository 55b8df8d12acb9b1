"""Projects: an administrator manages them, everybody sees their own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from kilonova.api.identity.bodies import ChangedProject, NewProject, ProjectFields, given, split
from kilonova.api.identity.collections import PAGING, collection, filters_of, link, page_of
from kilonova.api.identity.routes import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth import projects as units
from kilonova.auth.policy import Policy
from kilonova.auth.projects import Project, TagFilter
from kilonova.errors import BadRequest, Forbidden
from kilonova.store import schema

_TAG_FILTERS = ("tags", "tags-any", "not-tags", "not-tags-any")


def render(request: ApiRequest, project: Project) -> dict[str, Any]:
    return {
        "options": {},
        **project.extra,
        "id": project.id,
        "name": project.name,
        "domain_id": project.domain_id,
        "parent_id": project.parent_id,
        "is_domain": False,
        "description": project.description,
        "enabled": project.enabled,
        "tags": project.tags,
        "links": link(request, "projects", project.id),
    }


def own_or_admin(request: ApiRequest) -> str:
    """The path's project. Raises `Forbidden` unless it is the token's or the caller an administrator."""
    project_id = request.path["project_id"]
    if project_id != request.context.project_id and not request.context.is_admin:
        raise Forbidden("Only an administrator may look at another project")
    return project_id


@registry.route(
    "GET",
    "/v3/projects",
    policy=Policy.ADMIN,
    query=("name", "domain_id", "parent_id", "enabled", "is_domain", *_TAG_FILTERS, *PAGING),
)
async def listing(request: ApiRequest) -> dict[str, Any]:
    """List projects."""
    page = page_of(request, "id", "name", "domain_id", "parent_id", "enabled")
    if request.query_bool("is_domain"):
        return collection(request, "projects", [], page)
    filters = filters_of(request, schema.projects, "name", "domain_id", "parent_id", "enabled", "description")
    every, some, not_every, none = (_names(request, parameter) for parameter in _TAG_FILTERS)
    found = await request.auth.store.read(units.listing, filters, page, TagFilter(every, some, not_every, none))
    return collection(request, "projects", [render(request, project) for project in found], page)


def _names(request: ApiRequest, parameter: str) -> frozenset[str]:
    value = request.query(parameter)
    return frozenset(name for name in value.split(",") if name) if value else frozenset()


@registry.route("POST", "/v3/projects", policy=Policy.ADMIN, status=201, body=NewProject)
async def create(request: ApiRequest, body: NewProject) -> dict[str, Any]:
    """Create a project; the domain is its parent's, or the token's, unless it is given."""
    fields, extra = split(body.project, ProjectFields, "project")
    values = _values(fields, extra)
    if "name" not in values:
        raise BadRequest("Invalid input: project: name is required")
    if fields.is_domain is True:
        raise BadRequest("is_domain: a project does not act as a domain here; create a domain")
    parent_id = fields.parent_id or None

    def unit(tx: Connection) -> Project:
        domain_id = fields.domain_id or None
        if domain_id is None:
            top = parent_id is None or _is_domain(tx, parent_id)
            domain_id = (parent_id or request.context.domain_id) if top else units.find(tx, parent_id or "").domain_id
        return units.create(tx, domain_id=domain_id, parent_id=parent_id, **values)

    return {"project": render(request, await request.auth.change(unit))}


def _is_domain(tx: Connection, some_id: str) -> bool:
    return tx.execute(schema.domains.select().where(schema.domains.c.id == some_id)).first() is not None


def _values(fields: ProjectFields, extra: dict[str, Any]) -> dict[str, Any]:
    values = given(fields, "name", "description", "enabled", "tags")
    if "description" in values:
        values["description"] = values["description"] or ""
    if "tags" in values:
        values["tags"] = sorted(set(values["tags"]))
    if isinstance(fields.options, dict):
        extra = {**extra, "options": fields.options}
    if extra:
        values["extra"] = extra
    return values


@registry.route("GET", "/v3/projects/{project_id}", policy=Policy.AUTHENTICATED)
async def show(request: ApiRequest) -> dict[str, Any]:
    """Show a project."""
    return {"project": render(request, await request.auth.store.read(units.find, own_or_admin(request)))}


@registry.route("PATCH", "/v3/projects/{project_id}", policy=Policy.ADMIN, body=ChangedProject)
async def change(request: ApiRequest, body: ChangedProject) -> dict[str, Any]:
    """Change a project; disabling it voids the tokens on it."""
    fields, extra = split(body.project, ProjectFields, "project")
    values = _values(fields, extra)

    def unit(tx: Connection, project_id: str) -> Project:
        project = units.find(tx, project_id)
        if fields.domain_id and fields.domain_id != project.domain_id:
            raise BadRequest("domain_id: a project cannot move to another domain")
        if fields.parent_id and fields.parent_id != project.parent_id:
            raise Forbidden("parent_id: a project cannot move below another")
        if "extra" in values:
            return units.change(tx, project_id, {**values, "extra": project.extra | values["extra"]})
        return units.change(tx, project_id, values)

    return {"project": render(request, await request.auth.change(unit, request.path["project_id"]))}


@registry.route("DELETE", "/v3/projects/{project_id}", policy=Policy.ADMIN, status=204)
async def delete(request: ApiRequest) -> None:
    """Delete a project that owns nothing any more."""
    await request.auth.change(units.remove, request.path["project_id"])
