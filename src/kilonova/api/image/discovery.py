"""Version documents, import methods and stores: what a client asks before it begins."""

from __future__ import annotations

from typing import Any

from kilonova.api.image import view
from kilonova.api.image.registry import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy

VERSIONS = ("v2.9", "v2.8", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0")


@registry.route("GET", "", policy=Policy.ANYONE, status=300)
async def root(request: ApiRequest) -> dict[str, Any]:
    return _versions(request)


@registry.route("GET", "/versions", policy=Policy.ANYONE)
async def versions(request: ApiRequest) -> dict[str, Any]:
    return _versions(request)


@registry.route("GET", "/v2", policy=Policy.ANYONE, status=300)
async def v2_root(request: ApiRequest) -> dict[str, Any]:
    return _versions(request)


@registry.route("GET", "/v2/info/import", policy=Policy.READER)
async def import_methods(_request: ApiRequest) -> dict[str, Any]:
    return {
        "import-methods": {
            "description": "Import methods available.",
            "type": "array",
            "value": ["glance-direct"],
        }
    }


@registry.route("GET", "/v2/info/stores", policy=Policy.READER)
async def stores(_request: ApiRequest) -> dict[str, Any]:
    return {"stores": [{"id": view.STORE, "description": "The cloud's object store", "default": "true"}]}


def _versions(request: ApiRequest) -> dict[str, Any]:
    href = f"{request.base_url}/image/v2/"
    return {
        "versions": [
            {
                "id": version,
                "status": "CURRENT" if version == VERSIONS[0] else "SUPPORTED",
                "links": [{"rel": "self", "href": href}],
            }
            for version in VERSIONS
        ]
    }
