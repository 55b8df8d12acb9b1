"""Roles."""

from __future__ import annotations

from typing import Any

from kilonova.api.identity.bodies import ChangedRole, NewRole, given
from kilonova.api.identity.collections import PAGING, collection, filters_of, link, page_of
from kilonova.api.identity.routes import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth import roles as units
from kilonova.auth.policy import Policy
from kilonova.auth.roles import Role
from kilonova.errors import BadRequest
from kilonova.store import schema


def render(request: ApiRequest, role: Role) -> dict[str, Any]:
    return {
        "id": role.id,
        "name": role.name,
        "domain_id": None,
        "description": role.description,
        "options": {},
        "links": link(request, "roles", role.id),
    }


@registry.route("GET", "/v3/roles", policy=Policy.ADMIN, query=("name", "domain_id", *PAGING))
async def listing(request: ApiRequest) -> dict[str, Any]:
    """List roles."""
    page = page_of(request, "id", "name")
    if request.query("domain_id"):  # roles of one domain do not exist here
        return collection(request, "roles", [], page)
    filters = filters_of(request, schema.roles, "name", "description")
    found = await request.auth.store.read(units.listing, filters, page)
    return collection(request, "roles", [render(request, role) for role in found], page)


@registry.route("POST", "/v3/roles", policy=Policy.ADMIN, status=201, body=NewRole)
async def create(request: ApiRequest, body: NewRole) -> dict[str, Any]:
    """Create a role."""
    if body.role.domain_id is not None:
        raise BadRequest("domain_id: a role belongs to all domains here")
    role = await request.auth.change(units.create, name=body.role.name, description=body.role.description or "")
    return {"role": render(request, role)}


@registry.route("GET", "/v3/roles/{role_id}", policy=Policy.ADMIN)
async def show(request: ApiRequest) -> dict[str, Any]:
    """Show a role."""
    return {"role": render(request, await request.auth.store.read(units.find, request.path["role_id"]))}


@registry.route("PATCH", "/v3/roles/{role_id}", policy=Policy.ADMIN, body=ChangedRole)
async def change(request: ApiRequest, body: ChangedRole) -> dict[str, Any]:
    """Change a role."""
    values = given(body.role, "name", "description")
    if "description" in values:
        values["description"] = values["description"] or ""
    return {"role": render(request, await request.auth.change(units.change, request.path["role_id"], values))}


@registry.route("DELETE", "/v3/roles/{role_id}", policy=Policy.ADMIN, status=204)
async def delete(request: ApiRequest) -> None:
    """Delete a role and take it from everybody who has it."""
    await request.auth.change(units.remove, request.path["role_id"])
