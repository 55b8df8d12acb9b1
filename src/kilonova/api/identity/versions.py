"""Which versions of the identity API there are."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from kilonova.api.identity.routes import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy


def _version(request: ApiRequest) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{request.base_url}/identity/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


@registry.route("GET", "", policy=Policy.ANYONE, status=300)
async def versions(request: ApiRequest) -> Response:
    """List the versions."""
    location = f"{request.base_url}/identity/v3/"
    return JSONResponse({"versions": {"values": [_version(request)]}}, 300, {"Location": location})


@registry.route("GET", "/v3", policy=Policy.ANYONE)
async def version(request: ApiRequest) -> dict[str, Any]:
    """Show the version."""
    return {"version": _version(request)}
