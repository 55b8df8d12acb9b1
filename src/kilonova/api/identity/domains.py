"""Domains."""

from __future__ import annotations

from typing import Any

from kilonova.api.identity.bodies import ChangedDomain, NewDomain, given
from kilonova.api.identity.collections import PAGING, collection, filters_of, link, page_of
from kilonova.api.identity.routes import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth import domains as units
from kilonova.auth.domains import Domain
from kilonova.auth.policy import Policy
from kilonova.errors import Forbidden
from kilonova.store import schema


def render(request: ApiRequest, domain: Domain) -> dict[str, Any]:
    return {
        "id": domain.id,
        "name": domain.name,
        "description": domain.description,
        "enabled": domain.enabled,
        "options": {},
        "tags": [],
        "links": link(request, "domains", domain.id),
    }


@registry.route("GET", "/v3/domains", policy=Policy.ADMIN, query=("name", "enabled", *PAGING))
async def listing(request: ApiRequest) -> dict[str, Any]:
    """List domains."""
    page = page_of(request, "id", "name", "enabled")
    filters = filters_of(request, schema.domains, "id", "name", "enabled", "description")
    found = await request.auth.store.read(units.listing, filters, page)
    return collection(request, "domains", [render(request, domain) for domain in found], page)


@registry.route("POST", "/v3/domains", policy=Policy.ADMIN, status=201, body=NewDomain)
async def create(request: ApiRequest, body: NewDomain) -> dict[str, Any]:
    """Create a domain."""
    wanted = body.domain
    domain = await request.auth.change(
        units.create, name=wanted.name, description=wanted.description or "", enabled=wanted.enabled
    )
    return {"domain": render(request, domain)}


@registry.route("GET", "/v3/domains/{domain_id}", policy=Policy.AUTHENTICATED)
async def show(request: ApiRequest) -> dict[str, Any]:
    """Show a domain: the token's own, or any for an administrator."""
    domain_id = request.path["domain_id"]
    if domain_id != request.context.domain_id and not request.context.is_admin:
        raise Forbidden("Only an administrator may look at another domain")
    return {"domain": render(request, await request.auth.store.read(units.find, domain_id))}


@registry.route("PATCH", "/v3/domains/{domain_id}", policy=Policy.ADMIN, body=ChangedDomain)
async def change(request: ApiRequest, body: ChangedDomain) -> dict[str, Any]:
    """Change a domain; disabling it voids the tokens of its users and on its projects."""
    values = given(body.domain, "name", "description", "enabled")
    if "description" in values:
        values["description"] = values["description"] or ""
    return {"domain": render(request, await request.auth.change(units.change, request.path["domain_id"], values))}


@registry.route("DELETE", "/v3/domains/{domain_id}", policy=Policy.ADMIN, status=204)
async def delete(request: ApiRequest) -> None:
    """Delete a disabled domain with its users and projects."""
    await request.auth.change(units.remove, request.path["domain_id"])
