"""The catalog as lists of regions, services and endpoints; only the configuration changes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kilonova.api.identity.collections import link
from kilonova.api.identity.routes import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.catalog import Endpoint, Service, endpoints
from kilonova.auth.policy import Policy
from kilonova.errors import NotFound


def _region(request: ApiRequest) -> dict[str, Any]:
    name = request.config.api.region
    return {"id": name, "description": "", "parent_region_id": None, "links": link(request, "regions", name)}


def _service(request: ApiRequest, service: Service) -> dict[str, Any]:
    return {
        "id": service.id,
        "type": service.type,
        "name": service.name,
        "description": service.description,
        "enabled": True,
        "links": link(request, "services", service.id),
    }


def _endpoint(request: ApiRequest, endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "interface": endpoint.interface,
        "region": endpoint.region,
        "region_id": endpoint.region,
        "service_id": endpoint.service.id,
        "url": endpoint.url,
        "enabled": True,
        "links": link(request, "endpoints", endpoint.id),
    }


def _listed(request: ApiRequest, name: str, items: Iterable[dict[str, Any]], *filters: str) -> dict[str, Any]:
    asked = {key: value for key in filters if (value := request.query(key)) is not None}
    kept = [item for item in items if all(item[key] == value for key, value in asked.items())]
    return {name: kept, "links": {"self": str(request.http.url), "previous": None, "next": None}}


def _one(noun: str, wanted: str, items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    for item in items:
        if item["id"] == wanted:
            return {noun: item}
    raise NotFound(f"Could not find {noun}: {wanted}.")


def _services(request: ApiRequest) -> list[dict[str, Any]]:
    return [_service(request, service) for service in request.auth.services]


def _endpoints(request: ApiRequest) -> list[dict[str, Any]]:
    found = endpoints(request.config.api, request.auth.services)
    return [_endpoint(request, endpoint) for endpoint in found]


@registry.route("GET", "/v3/regions", policy=Policy.AUTHENTICATED, query=("parent_region_id",))
async def regions(request: ApiRequest) -> dict[str, Any]:
    """List regions."""
    return _listed(request, "regions", [_region(request)], "parent_region_id")


@registry.route("GET", "/v3/regions/{region_id}", policy=Policy.AUTHENTICATED)
async def region(request: ApiRequest) -> dict[str, Any]:
    """Show a region."""
    return _one("region", request.path["region_id"], [_region(request)])


@registry.route("GET", "/v3/services", policy=Policy.AUTHENTICATED, query=("type", "name"))
async def services(request: ApiRequest) -> dict[str, Any]:
    """List services."""
    return _listed(request, "services", _services(request), "type", "name")


@registry.route("GET", "/v3/services/{service_id}", policy=Policy.AUTHENTICATED)
async def service(request: ApiRequest) -> dict[str, Any]:
    """Show a service."""
    return _one("service", request.path["service_id"], _services(request))


@registry.route("GET", "/v3/endpoints", policy=Policy.AUTHENTICATED, query=("interface", "service_id", "region_id"))
async def endpoint_list(request: ApiRequest) -> dict[str, Any]:
    """List endpoints."""
    return _listed(request, "endpoints", _endpoints(request), "interface", "service_id", "region_id")


@registry.route("GET", "/v3/endpoints/{endpoint_id}", policy=Policy.AUTHENTICATED)
async def endpoint(request: ApiRequest) -> dict[str, Any]:
    """Show an endpoint."""
    return _one("endpoint", request.path["endpoint_id"], _endpoints(request))
